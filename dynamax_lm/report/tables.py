"""The leaderboard as Markdown, CSV and JSON.

Owns columns and how numbers are written. It does not compare anything.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from dynamax_lm.common.intervals import LEVEL
from dynamax_lm.report.leaderboard import Entry, Leaderboard
from dynamax_lm.report.paired import Comparison
from dynamax_lm.report.runs import Value
from dynamax_lm.report.static_baseline import ACCOUNTS, FULL_DEPTH, Account, StaticBaseline

Record = dict[str, str | float | int | bool | None]
"""A table row as plain values, every column present; ``None`` where unknown."""

_AGAINST = {
    "mixed": "mixed against",
    "not distinguishable": "not distinguishable from",
    "is worse": "is worse than",
    "not tested": "no paired documents, no verdict against",
}
_MARKS = {"beats": "✓", "not distinguishable": "≈", "not tested": "·"}
BASELINES: dict[Account, str] = {
    "answer": "fixed depth of equal answer FLOPs",
    "total": "fixed depth of equal total FLOPs",
}
"""What the static baseline's columns are called."""
_PREFIXES: dict[Account, str] = {"answer": "static", "total": "static_total"}
_WITH_STDERR = (
    "full_depth",
    "layers_used",
    "flops_saved",
    "flops_saved_total",
    "agreement",
    "consistency",
    "agreement_noise",
    "layers_used_with_stop",
    "flops_saved_with_stop",
    "agreement_with_stop",
    "stop_share",
)


def record_of(entry: Entry) -> Record:
    """Every column of one row, unrounded."""
    row = entry.row
    record: Record = {
        "task": row.task,
        "metric": row.key.metric,
        "filter": row.key.filter,
        "checkpoint": row.checkpoint,
        "model": row.run.model,
        "setting": row.setting,
        "kind": row.kind,
        "documents": row.run.documents(row.task),
        "few_shot": row.conditions.few_shot,
        "task_version": row.conditions.version,
        "higher_is_better": row.higher_is_better,
        "quality": row.quality.mean,
        "quality_stderr": row.quality.stderr,
    }
    for name in _WITH_STDERR:
        value: Value | None = getattr(row, name)
        record[name] = value.mean if value else None
        record[f"{name}_stderr"] = value.stderr if value else None
    record |= {
        "layers": row.run.layers,
        "certificate": row.certificate,
        "pareto_quality": entry.marks.quality,
        "pareto_agreement": entry.marks.agreement,
        "date": date_of(row.run.date),
        "results": str(row.run.path),
    }
    for account in ACCOUNTS:
        record |= _baseline_record(_PREFIXES[account], baseline_of(entry, account))
    return record


def _baseline_record(prefix: str, baseline: StaticBaseline | None) -> Record:
    return {
        f"{prefix}_depth": baseline.depth if baseline else None,
        f"{prefix}_quality": baseline.quality if baseline else None,
        f"{prefix}_agreement": baseline.agreement if baseline else None,
        f"{prefix}_source": baseline.source if baseline else "",
        f"{prefix}_verdict": baseline.verdict if baseline else "",
        f"{prefix}_told_by": " ".join(baseline.told_by) if baseline else "",
    }


def baseline_of(entry: Entry, account: Account) -> StaticBaseline | None:
    """The row's static baseline in one account."""
    return next((one for one in entry.baselines if one.account == account), None)


def comparison_record(comparison: Comparison) -> Record:
    """Every column of one paired comparison, unrounded."""
    row, gap = comparison.row, comparison.difference
    return {
        "task": row.task,
        "metric": comparison.metric,
        "filter": row.key.filter,
        "checkpoint": row.checkpoint,
        "setting": row.setting,
        "against": comparison.against,
        "documents": gap.documents if gap else None,
        "difference": gap.mean if gap else None,
        "low": _finite(gap.low) if gap else None,
        "high": _finite(gap.high) if gap else None,
        "p_higher": gap.p_higher if gap else None,
        "p_lower": gap.p_lower if gap else None,
        "shown": comparison.shown,
        "refused": comparison.reason,
    }


def to_json(board: Leaderboard) -> str:
    """All rows and comparisons, unrounded."""
    data = {
        "interval": LEVEL,
        "comparisons_tested": board.tested,
        "rows": [record_of(entry) for entry in board.entries],
        "comparisons": [comparison_record(one) for one in board.comparisons],
        "apart": [one._asdict() for one in board.apart],
    }
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(board: Leaderboard) -> str:
    """All rows, unrounded; an empty field where a number is unknown."""
    records = [record_of(entry) for entry in board.entries]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(records[0]) if records else [])
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def to_markdown(board: Leaderboard) -> str:
    """The rows as people read them, then the paired comparisons."""
    head = (
        "task",
        "metric",
        "checkpoint",
        "setting",
        "value",
        "full depth",
        "layers",
        "net FLOPs saved",
        "agreement",
        "consistency",
        "stop's share",
        "FLOPs saved with stop",
        "agreement with stop",
        "certificate",
        "Pareto",
        *(BASELINES[account] for account in ACCOUNTS),
        "few-shot",
        "documents",
    )
    body = [
        [
            entry.row.task,
            metric_name(entry),
            entry.row.checkpoint,
            setting_text(entry),
            shown(entry.row.quality),
            shown(entry.row.full_depth),
            layers_text(entry),
            percent(entry.row.flops_saved),
            agreement_text(entry),
            percent(entry.row.consistency),
            percent(entry.row.stop_share),
            percent(entry.row.flops_saved_with_stop),
            percent(entry.row.agreement_with_stop),
            entry.row.certificate or "–",
            pareto_text(entry),
            *(baseline_text(baseline_of(entry, account)) for account in ACCOUNTS),
            entry.row.conditions.few_shot or "–",
            entry.row.run.documents(entry.row.task) or "–",
        ]
        for entry in board.entries
    ]
    text = _markdown(head, body)
    if board.apart:
        text += "\nNot compared, since they were not asked the same:\n\n"
        text += _markdown(("task", "checkpoint", "settings", "reason"), board.apart)
    if board.comparisons:
        columns = ("task", "metric", "checkpoint", "setting", "against", "difference", "shown")
        lines = [
            [
                one.row.task,
                one.metric,
                one.row.checkpoint,
                one.row.setting,
                one.against,
                difference_text(one),
                one.shown or "–",
            ]
            for one in board.comparisons
        ]
        text += f"\nPaired by document. {looked_text(board)}\n\n{_markdown(columns, lines)}"
    return text


def metric_name(entry: Entry) -> str:
    """The metric, its filter where that says something, and an arrow for the better way."""
    key = entry.row.key
    name = key.metric if key.filter == "none" else f"{key.metric} ({key.filter})"
    return f"{name} {'↑' if entry.row.higher_is_better else '↓'}"


def setting_text(entry: Entry) -> str:
    """The setting; the oracle's is marked as what it is."""
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
    """Agreement, and beside it what rounding alone may take off it, where that is not 0."""
    noise = entry.row.agreement_noise
    floor = "" if noise is None else f" (noise {percent(noise)})"
    return percent(entry.row.agreement) + floor


def layers_text(entry: Entry) -> str:
    """Layers used of L."""
    used, layers = entry.row.layers_used, entry.row.run.layers
    if used is None:
        return "–"
    return f"{used.mean:.1f}" + (f" / {layers}" if layers else "")


def pareto_text(entry: Entry) -> str:
    """On which counts a row is Pareto-optimal."""
    names = [name for name in ("quality", "agreement") if getattr(entry.marks, name)]
    return "both" if len(names) == 2 else "".join(names) or "–"


def looked_text(board: Leaderboard) -> str:
    """Over how many comparisons the page has looked, and what was done about it."""
    count = f"{board.tested} comparison{'' if board.tested == 1 else 's'}"
    return (
        f"This page looked at {count}. Each interval holds at {LEVEL:.0%} by itself, for bounded "
        f"values and any number of documents; what is shown, and every verdict, is corrected by "
        f"Holm's procedure for all of them, {(1 - LEVEL) / 2:.1%} for each direction."
    )


def baseline_text(baseline: StaticBaseline | None) -> str:
    """A static baseline and the verdict; a dynamic row that does not beat it is marked."""
    if baseline is None:
        return "–"
    mark = _MARKS.get(baseline.verdict, "✗")
    if baseline.verdict == "unknown":
        return f"costs as much as layer {baseline.depth:.1f}: {baseline.source}"
    told = f" in {' and '.join(baseline.told_by)}" if baseline.told_by else ""
    if baseline.source == FULL_DEPTH:
        return f"{mark} {baseline.verdict}{told}: {baseline.source}"
    quality = "?" if baseline.quality is None else f"{baseline.quality:.3f}"
    agreement = "?" if baseline.agreement is None else f"{100 * baseline.agreement:.1f} %"
    against = _AGAINST.get(baseline.verdict, baseline.verdict)
    verdict = f"{mark} {against} layer {baseline.depth:.1f}"
    return f"{verdict}{told}: {quality}, agreement {agreement}; {baseline.source}"


def difference_text(comparison: Comparison) -> str:
    """A difference with its interval, or why there is none."""
    gap = comparison.difference
    if gap is None:
        return f"not compared: {comparison.reason}"
    ends = f"[{gap.low:+.3f}, {gap.high:+.3f}]" if gap.tested else f"({comparison.reason})"
    differing = "" if gap.differing else ", no document differs"
    return f"{gap.mean:+.3f} {ends}, n = {gap.documents}{differing}".replace("-", "−")


def date_of(seconds: float) -> str:
    """A day and time, or nothing where unknown."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _markdown(head: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: Any) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
