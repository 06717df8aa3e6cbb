"""The metric of a task that pictures and sentences are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamax_lm.report.rows import Row, arenas

Arena = Sequence[Row]


def one_metric_each(rows: Sequence[Row]) -> list[Arena]:
    """Of each task the rows of its first metric, in the task's order, whose values differ."""
    groups: dict[object, list[Arena]] = {}
    for arena in arenas(rows):
        if any(row.flops_saved is not None for row in arena):
            checkpoint, task, _, conditions = arena[0].arena
            groups.setdefault((checkpoint, task, conditions), []).append(arena)
    chosen = []
    for group in groups.values():
        ordered = sorted(group, key=_place)
        chosen.append(next((arena for arena in ordered if _varies(arena)), ordered[0]))
    return chosen


def _place(arena: Arena) -> int:
    """The metric's position in the task's list; last if it is not listed."""
    row = arena[0]
    listed = (row.run.of_task("configs", row.task) or {}).get("metric_list") or ()
    names = [one.get("metric") for one in listed if isinstance(one, Mapping)]
    return names.index(row.key.metric) if row.key.metric in names else len(names)


def _varies(arena: Arena) -> bool:
    """Whether the metric's values differ between rows."""
    return len({row.quality.mean for row in arena}) > 1
