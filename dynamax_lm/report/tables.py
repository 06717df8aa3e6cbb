"""The leaderboard as Markdown, CSV and JSON.

This module has the file formats; ``columns`` has the contents.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from dynamax_lm.common.intervals import LEVEL
from dynamax_lm.report.column import Column
from dynamax_lm.report.columns import COLUMNS
from dynamax_lm.report.leaderboard import Entry, Leaderboard
from dynamax_lm.report.paired import Comparison

Record = dict[str, str | float | int | bool | None]
"""A table row as plain values of every column; ``None`` where unknown."""


_TAG = re.compile(r"<(?=[a-zA-Z/!?])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def record_of(entry: Entry, columns: Sequence[Column] = COLUMNS) -> Record:
    """Every column of one row, unrounded."""
    record: Record = {}
    for column in columns:
        record[column.key] = column.value(entry)
        if column.stderr is not None:
            record[f"{column.key}_stderr"] = column.stderr(entry)
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
        "units": gap.units if gap else None,
        "difference": gap.mean if gap else None,
        "low": _finite(gap.low) if gap else None,
        "high": _finite(gap.high) if gap else None,
        "p_higher": gap.p_higher if gap else None,
        "p_lower": gap.p_lower if gap else None,
        "shown": comparison.shown,
        "refused": comparison.reason,
    }


def to_json(board: Leaderboard, columns: Sequence[Column] = COLUMNS) -> str:
    """All rows and comparisons, unrounded; columns from outside the package by their source."""
    data: dict[str, Any] = {
        "interval": LEVEL,
        "comparisons_tested": board.tested,
        "rows": [record_of(entry, columns) for entry in board.entries],
        "comparisons": [comparison_record(one) for one in board.comparisons],
        "apart": [one._asdict() for one in board.apart],
    }
    if sources := {column.key: column.source for column in columns if column.source}:
        data["columns"] = sources
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(board: Leaderboard, columns: Sequence[Column] = COLUMNS) -> str:
    """All rows, unrounded; an empty field where a number is unknown."""
    records = [record_of(entry, columns) for entry in board.entries]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(records[0]) if records else [])
    writer.writeheader()
    writer.writerows({name: inert(value) for name, value in one.items()} for one in records)
    return out.getvalue()


def to_markdown(board: Leaderboard, columns: Sequence[Column] = COLUMNS) -> str:
    """The rows as text, then the paired comparisons."""
    told = sorted((one for one in columns if one.markdown), key=lambda one: one.markdown)
    head = [column.title for column in told]
    body = [[column.shown(entry) for column in told] for entry in board.entries]
    text = _markdown(head, body)
    if board.apart:
        text += "\nNot compared, since their prompts or settings of the task differ:\n\n"
        text += _markdown(("task", "checkpoint", "settings", "reason"), board.apart)
    if board.comparisons:
        names = ("task", "metric", "checkpoint", "setting", "against", "difference", "shown")
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
        text += f"\nPaired by document. {looked_text(board)}\n\n{_markdown(names, lines)}"
    return text


def looked_text(board: Leaderboard) -> str:
    """A line on the number of comparisons and their correction."""
    count = f"{board.tested} comparison{'' if board.tested == 1 else 's'}"
    return (
        f"This page looked at {count}. Each interval holds at {LEVEL:.0%} by itself, for bounded "
        f"values and any number of documents; what is shown, and every verdict, is corrected by "
        f"Holm's procedure for all of them, {(1 - LEVEL) / 2:.1%} for each direction."
    )


def difference_text(comparison: Comparison) -> str:
    """A difference with its interval, or the reason for none."""
    gap = comparison.difference
    if gap is None:
        return f"not compared: {comparison.reason}"
    ends = f"[{gap.low:+.3f}, {gap.high:+.3f}]" if gap.tested else f"({comparison.reason})"
    differing = "" if gap.differing else ", no document differs"
    units = f" in {gap.units} passages" if gap.units < gap.documents else ""
    return f"{gap.mean:+.3f} {ends}, n = {gap.documents}{units}{differing}".replace("-", "−")


def _markdown(head: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: Any) -> str:
    """One cell of a Markdown table; text that a browser would take for a tag is shown as text."""
    inert = _TAG.sub("&lt;", str(text)).replace("](", "]\\(")
    return " ".join(inert.replace("|", "\\|").split())


def inert(value: Any) -> Any:
    """A CSV field; a text that a spreadsheet would compute gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
