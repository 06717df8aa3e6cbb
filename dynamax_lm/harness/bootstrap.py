"""Standard errors of corpus metrics scored on the full-depth answers.

lm-eval bootstraps a few expensive corpus metrics 100 times instead of 100,000, and identifies them
by the metric's name; ``full_depth_bleu`` is none of these. An aggregation with few bootstrap
resamples is therefore marked by a type of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

EXPENSIVE = frozenset({"bleu", "chrf", "chrf++", "ter"})
"""Metrics with 100 resamples in lm-eval (``evaluator_utils._compute_task_aggregations``)."""

_RARELY = 100


class RarelyBootstrapped:
    """An aggregation function whose bootstrap is capped as lm-eval caps the original's."""

    def __init__(self, function: Callable[[Sequence[Any]], float]) -> None:
        """Wraps ``function``."""
        self.function = function

    def __call__(self, items: Sequence[Any]) -> float:
        """The aggregate of ``items``."""
        return self.function(items)


def aggregation_for(
    metric: str, function: Callable[[Sequence[Any]], float]
) -> Callable[[Sequence[Any]], float]:
    """The aggregation of ``full_depth_<metric>``: the metric's own, with its standard error."""
    return RarelyBootstrapped(function) if metric in EXPENSIVE else function


def around_stderr_for_metric(
    original: Callable[..., Any], metric: Any, bootstrap_iters: int
) -> Any:
    """Wraps ``stderr_for_metric``, which distinguishes aggregations by identity."""
    if isinstance(metric, RarelyBootstrapped):
        return original(metric=metric.function, bootstrap_iters=min(bootstrap_iters, _RARELY))
    return original(metric=metric, bootstrap_iters=bootstrap_iters)
