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

from dynamax_lm.intervals import LEVEL
from dynamax_lm.report.leaderboard import Entry, Leaderboard
from dynamax_lm.report.paired import Comparison
from dynamax_lm.report.runs import Value
from dynamax_lm.report.static import FULL_DEPTH

Record = dict[str, str | float | int | bool | None]
"""A table row as plain values, every column present; ``None`` where unknown."""

_AGAINST = {"mixed": "mixed against", "not distinguishable": "not distinguishable from"}
_MARKS = {"beats": "✓", "ties": "≈", "not distinguishable": "≈"}
_WITH_STDERR = (
    "full_depth",
    "layers_used",
    "flops_saved",
    "flops_saved_total",
    "agreement",
    "consistency",
    "agreement_noise",
)


def record_of(entry: Entry) -> Record:
    """Every column of one row, unrounded."""
    row, rival = entry.row, entry.rival
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
        "static_depth": rival.depth if rival else None,
        "static_quality": rival.quality if rival else None,
        "static_agreement": rival.agreement if rival else None,
        "static_source": rival.source if rival else "",
        "static_verdict": rival.verdict if rival else "",
        "static_paired": rival.paired if rival else None,
        "date": date_of(row.run.date),
        "results": str(row.run.path),
    }
    return record


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
        "refused": comparison.reason,
    }


def to_json(board: Leaderboard) -> str:
    """All rows and comparisons, unrounded."""
    data = {
        "interval": LEVEL,
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
        "certificate",
        "Pareto",
        "static depth of the same FLOPs",
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
            entry.row.certificate or "–",
            pareto_text(entry),
            rival_text(entry),
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
        columns = ("task", "metric", "checkpoint", "setting", "against", "difference")
        lines = [
            [
                one.row.task,
                one.metric,
                one.row.checkpoint,
                one.row.setting,
                one.against,
                difference_text(one),
            ]
            for one in board.comparisons
        ]
        text += f"\nPaired by document, {LEVEL:.0%} bootstrap intervals:\n\n" + _markdown(
            columns, lines
        )
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


def rival_text(entry: Entry) -> str:
    """The static rival and the verdict; dynamic rows that do not beat it are marked."""
    rival = entry.rival
    if rival is None:
        return "–"
    mark = _MARKS.get(rival.verdict, "✗")
    basis = "" if rival.paired else "; by means alone, not paired"
    if rival.verdict == "unknown":
        return f"costs as much as layer {rival.depth:.1f}: {rival.source}"
    if rival.source == FULL_DEPTH:
        return f"{mark} {rival.verdict}: {rival.source}{basis}"
    quality = "?" if rival.quality is None else f"{rival.quality:.3f}"
    agreement = "?" if rival.agreement is None else f"{100 * rival.agreement:.1f} %"
    verdict = f"{mark} {_AGAINST.get(rival.verdict, rival.verdict)} layer {rival.depth:.1f}"
    told = f" in {' and '.join(rival.told_by)}" if rival.told_by else ""
    return f"{verdict}{told}: {quality}, agreement {agreement}; {rival.source}{basis}"


def difference_text(comparison: Comparison) -> str:
    """A difference with its interval, or why there is none."""
    gap = comparison.difference
    if gap is None:
        return f"not compared: {comparison.reason}"
    if gap.low == gap.high == 0:
        return f"no document differs, n = {gap.documents}"
    ends = "too few documents for an interval"
    if math.isfinite(gap.low):
        ends = f"[{gap.low:+.3f}, {gap.high:+.3f}]"
    return f"{gap.mean:+.3f} {ends}, n = {gap.documents}".replace("-", "−")


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
