"""Text of the leaderboard's cells: formats of numbers and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from dynamax_lm.common.validation import is_finite
from dynamax_lm.report.depth_bills import Account
from dynamax_lm.report.labels import depth_text
from dynamax_lm.report.leaderboard import Entry
from dynamax_lm.report.rows import Row
from dynamax_lm.report.runs import Value
from dynamax_lm.report.static_baseline import FULL_DEPTH, StaticBaseline

NOTHING = "–"
"""An empty cell."""

_AGAINST = {
    "mixed": "mixed against",
    "not distinguishable": "not distinguishable from",
    "is worse": "is worse than",
    "not tested": "no paired documents, no verdict against",
}
_MARKS = {"beats": "✓", "not distinguishable": "≈", "not tested": "·"}


def baseline_of(entry: Entry, account: Account) -> StaticBaseline | None:
    """The row's static baseline by one account."""
    return next((one for one in entry.baselines if one.account == account), None)


def metric_name(entry: Entry) -> str:
    """The metric, its filter if not the default, and an arrow for the better direction."""
    key = entry.row.key
    name = key.metric if key.filter == "none" else f"{key.metric} ({key.filter})"
    return f"{name} {'↑' if entry.row.higher_is_better else '↓'}"


def setting_text(entry: Entry) -> str:
    """The setting; the oracle's is marked as an upper bound."""
    note = " (ceiling, not a result)" if entry.row.kind == "oracle" else ""
    return entry.row.setting + note


def shown(value: Value | None) -> str:
    """A number and its standard error."""
    if value is None:
        return "–"
    return f"{value.mean:.3f}" + (f" ± {value.stderr:.3f}" if value.stderr is not None else "")


def percent(value: Value | None) -> str:
    """A share and its standard error, in percent."""
    if value is None:
        return "–"
    stderr = f" ± {100 * value.stderr:.1f}" if value.stderr is not None else ""
    return f"{100 * value.mean:.1f}{stderr} %".replace("-", "−")


def agreement_text(entry: Entry) -> str:
    """Agreement, and the loss that rounding alone can cause, where that is not 0."""
    noise = entry.row.agreement_noise
    floor = "" if noise is None else f" (noise {percent(noise)})"
    return percent(entry.row.agreement) + floor


def numbers_of(row: Row) -> str:
    """A row's saving, metric and agreement, in words."""
    parts = [f"{row.key.metric} {row.quality.mean:.3f}"]
    if row.flops_saved is not None:
        parts.insert(0, f"{100 * row.flops_saved.mean:.1f} % of answer FLOPs saved")
    if row.agreement is not None:
        parts.append(f"agreement {100 * row.agreement.mean:.1f} %")
    return ", ".join(parts).replace("-", "−")


def layers_text(entry: Entry) -> str:
    """Layers used of L."""
    used, layers = entry.row.layers_used, entry.row.run.layers
    if used is None:
        return "–"
    return f"{used.mean:.1f}" + (f" / {layers}" if layers else "")


def pareto_text(entry: Entry) -> str:
    """The criteria by which a row is Pareto-optimal."""
    names = [name for name in ("quality", "agreement") if getattr(entry.marks, name)]
    return "both" if len(names) == 2 else "".join(names) or "–"


def baseline_text(baseline: StaticBaseline | None, published: Value | None = None) -> str:
    """A static baseline and the verdict; a dynamic row that does not beat it is marked.

    Args:
        baseline: of a row.
        published: the row's agreement. Where documents without text make it another one than that
            on the documents compared, the latter is told beside the baseline's.
    """
    if baseline is None:
        return "–"
    mark = _MARKS.get(baseline.verdict, "✗")
    if baseline.verdict == "unknown":
        return f"costs as much as {depth_text(baseline.depth)} layers: {baseline.source}"
    told = f" in {' and '.join(baseline.told_by)}" if baseline.told_by else ""
    if baseline.source == FULL_DEPTH:
        return f"{mark} {baseline.verdict}{told}: {baseline.source}"
    quality = "unknown" if baseline.quality is None else f"{baseline.quality:.3f}"
    agreement = "unknown" if baseline.agreement is None else f"{100 * baseline.agreement:.1f} %"
    own = baseline.row_agreement
    if own is not None and published is not None and abs(own - published.mean) > 1e-9:
        agreement += f" (against {100 * own:.1f} %, documents without text included)"
    against = _AGAINST.get(baseline.verdict, baseline.verdict)
    verdict = f"{mark} {against} {depth_text(baseline.depth)} layers"
    return f"{verdict}{told}; there: value {quality}, agreement {agreement}, {baseline.source}"


def date_of(seconds: float) -> str:
    """A day and time, or nothing where unknown."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def speedup_of(row: Row) -> float | None:
    """Decoding speed over full depth's, where the run measured it."""
    speed = (row.run.early_exit or {}).get("speed")
    value = speed.get("speedup") if isinstance(speed, Mapping) else None
    return float(value) if isinstance(value, (int, float)) and is_finite(value) else None
