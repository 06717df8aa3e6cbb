"""Thresholds chosen on one half of the documents and judged on the other, and how sure that is.

Owns cross-fitting and intervals. It does not know layers, FLOPs or what a threshold means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from benchmarks.criteria.accounts import PerDocument

FOLDS = 2
_RESAMPLES = 2000
Interval = tuple[float, float]


class Judged(NamedTuple):
    """A rule at a target, every document judged at a threshold that it had no part in choosing.

    Attributes:
        thresholds: the one of each fold.
        documents: all documents' numbers.
    """

    thresholds: tuple[float, ...]
    documents: PerDocument


def folds(tasks: Sequence[str], seed: int) -> NDArray[np.int64]:
    """(M,) the fold of each document; every task is spread evenly."""
    generator = np.random.default_rng(seed)
    found = np.zeros(len(tasks), dtype=np.int64)
    for task in sorted(set(tasks)):
        members = np.flatnonzero(np.array(tasks) == task)
        generator.shuffle(members)
        found[members] = np.arange(len(members)) % FOLDS
    return found


def choose(grid: Mapping[float, PerDocument], documents: NDArray[np.int64], target: float) -> float:
    """The threshold that saves most while ``documents`` agree on ``target`` at least.

    Never leaving agrees on everything, so that a grid which holds 1 always has an answer.

    Raises:
        ValueError: no threshold of the grid reaches the target.
    """
    means = {threshold: one.of(documents).means for threshold, one in grid.items()}
    enough = [threshold for threshold, (_, agreement, _) in means.items() if agreement >= target]
    if not enough:
        raise ValueError(f"no threshold agrees on {target}; put 1 into the grid")
    return max(enough, key=lambda threshold: (means[threshold][0], threshold))


def cross_fit(
    grid: Mapping[float, PerDocument],
    fold: NDArray[np.int64],
    target: float,
) -> Judged:
    """Choose on all folds but one and judge on that one, for each.

    Args:
        grid: per threshold, every document's numbers.
        fold: (M,) of each document.
        target: least agreement.
    """
    thresholds = []
    judged = [np.zeros(len(fold)) for _ in PerDocument._fields]
    for number in range(int(fold.max()) + 1):
        threshold = choose(grid, np.flatnonzero(fold != number), target)
        thresholds.append(threshold)
        mine = fold == number
        for column, values in zip(judged, grid[threshold], strict=True):
            column[mine] = values[mine]
    return Judged(tuple(thresholds), PerDocument(*judged))


def interval(values: NDArray[np.float64], seed: int) -> Interval:
    """95 % percentile bootstrap of a mean over documents."""
    return _bootstrap((values,), np.mean, seed)


def share_interval(
    part: NDArray[np.float64], whole: NDArray[np.float64], seed: int
) -> tuple[float, Interval]:
    """The share of two means over the same documents, with its interval."""

    def share(some: NDArray[np.float64], every: NDArray[np.float64], axis: int = -1) -> object:
        return some.mean(axis) / every.mean(axis)

    return float(part.mean() / whole.mean()), _bootstrap((part, whole), share, seed)


def _bootstrap(
    data: tuple[NDArray[np.float64], ...], statistic: Callable[..., object], seed: int
) -> Interval:
    if all(np.ptp(column) == 0 for column in data):
        value = float(statistic(*data))  # type: ignore[arg-type]
        return value, value
    found = bootstrap(
        data,
        statistic,
        paired=len(data) > 1,
        vectorized=True,
        n_resamples=_RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
