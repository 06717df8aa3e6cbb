"""The metric of a task that pictures and sentences are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamax_lm.report.rows import Row, comparison_groups

Group = Sequence[Row]


def one_metric_each(rows: Sequence[Row]) -> list[Group]:
    """Of each task the rows of its first metric, in the task's order, whose values differ."""
    by_task: dict[object, list[Group]] = {}
    for group in comparison_groups(rows):
        if any(row.flops_saved is not None for row in group):
            checkpoint, task, _, conditions = group[0].comparison_group
            by_task.setdefault((checkpoint, task, conditions), []).append(group)
    chosen = []
    for metrics in by_task.values():
        ordered = sorted(metrics, key=lambda group: place_of(group[0]))
        chosen.append(next((group for group in ordered if _varies(group)), ordered[0]))
    return chosen


def place_of(row: Row) -> int:
    """The metric's position in the task's list; last if it is not listed."""
    listed = (row.run.of_task("configs", row.task) or {}).get("metric_list") or ()
    names = [one.get("metric") for one in listed if isinstance(one, Mapping)]
    return names.index(row.key.metric) if row.key.metric in names else len(names)


def _varies(group: Group) -> bool:
    """Whether the metric's values differ between rows."""
    return len({row.quality.mean for row in group}) > 1
