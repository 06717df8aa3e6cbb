"""Decoding speed of a run, from the seconds that it recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from dynamax_lm.common.validation import is_finite
from dynamax_lm.report.runs import Run

_NOTE = "point.json"


def tokens_per_second(run: Run) -> float | None:
    """Answer tokens per second over all tasks of a run, prompts and reference aside.

    Machine, load and batch size are part of it. ``None`` where the run recorded no seconds, or is a
    point of a sweep that shared passes with other points, so that its seconds are not those of a
    separate run.
    """
    block = run.early_exit or {}
    seconds, tasks = block.get("seconds"), block.get("tasks")
    if not isinstance(seconds, Mapping) or not isinstance(tasks, Mapping):
        return None
    if _how(run.path.parent) not in {None, "run"}:
        return None
    tokens = [(one.get("with_stop") or {}).get("tokens") for one in tasks.values()]
    answer = seconds.get("answer")
    if not is_finite(answer) or not answer > 0:
        return None
    known = [one for one in tokens if isinstance(one, int)]
    total = sum(known)
    return total / float(answer) if total and len(known) == len(tokens) else None


@cache
def _how(folder: Path) -> str | None:
    """How a sweep computed the point in ``folder``; ``None`` for a run of its own."""
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(note.get("how")) if isinstance(note, Mapping) else None
