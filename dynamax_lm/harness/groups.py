"""Groups: the added metrics are averaged over subtasks wherever a group averages any metric.

lm-eval computes the averages: a group's list of metrics is extended for the duration of one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.core.totals import NOISE
from dynamax_lm.harness.reference import PREFIX


def around_aggregate(
    original: Callable[[Any, Any], Any], group: Any, task_metrics: Mapping[str, Mapping[str, Any]]
) -> Any:
    """Wraps ``Group.aggregate``."""
    own = group.aggregate_metric_list
    extra = _extra_metrics(group, task_metrics) if own else []
    if not extra:
        return original(group, task_metrics)
    group.aggregate_metric_list = [*own, *extra]
    try:
        return original(group, task_metrics)
    finally:
        group.aggregate_metric_list = own


def _extra_metrics(group: Any, task_metrics: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Added metrics that some subtask has and the group does not list itself.

    Tasks without noise do not report it, so that only a group of noisy tasks has an average of it.
    """
    from lm_eval.config.group import AggMetricConfig

    by_task = [
        {key.partition(",")[0] for key in task_metrics.get(task.task_name, {})}
        for task in group.get_all_tasks()
    ]
    present = set[str]().union(*by_task)
    if not all(NOISE in keys for keys in by_task):
        present.discard(NOISE)
    listed = {config.metric for config in group.aggregate_metric_list}
    wanted = dict.fromkeys(HIGHER_IS_BETTER, True)
    for config in group.aggregate_metric_list:
        wanted.setdefault(PREFIX + config.metric, config.weight_by_size)
    return [
        AggMetricConfig(metric=metric, weight_by_size=weighted)
        for metric, weighted in wanted.items()
        if metric in present and metric not in listed
    ]
