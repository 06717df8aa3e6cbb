"""The paired difference of two lists of numbers, with its interval and p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynamax_lm.common.intervals import LEVEL, Bounds, mean_interval, p_at_least, p_at_most
from dynamax_lm.common.passages import Units


class Difference(NamedTuple):
    """The mean of paired differences, and inference about its expectation.

    Attributes:
        documents: number of pairs.
        units: number of independent units: documents, or groups that share a passage.
        mean: of the differences, first minus second.
        low: lower end of the interval; minus infinity where there is none.
        high: upper end, likewise.
        p_higher: p-value of the hypothesis that the true mean is zero or less; small where the
            first is higher. 1 where there is no interval.
        p_lower: the same of zero or more; small where the first is lower.
        differing: number of pairs that differ.
    """

    documents: int
    units: int
    mean: float
    low: float
    high: float
    p_higher: float
    p_lower: float
    differing: int

    @property
    def tested(self) -> bool:
        """Whether the pairs suffice, and are bounded, for an interval."""
        return math.isfinite(self.low)


def difference(
    first: Sequence[float],
    second: Sequence[float],
    bounds: Bounds | None,
    *,
    units: Units | None = None,
    level: float = LEVEL,
) -> Difference:
    """The paired difference of two equally long lists of per-document values.

    Args:
        first: one value for each document.
        second: the other setting's value for the same document.
        bounds: of every value by definition; ``None`` if unknown.
        units: of the documents; ``None`` if each is its own.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: no documents, lists of different length, or a value outside ``bounds``.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"pairs need two equal, non-empty lists; got {len(first)}, {len(second)}")
    gaps = np.asarray(np.subtract(first, second), dtype=np.float64)
    mean, differing, documents = float(gaps.mean()), int(np.count_nonzero(gaps)), len(gaps)
    limits = None if bounds is None else bounds.of_gaps
    if units is not None:
        gaps, limits = units.values(gaps), None if limits is None else units.bounds(limits)
    found = None if limits is None else mean_interval(gaps, limits, level=level)
    if limits is None or found is None:
        return Difference(documents, len(gaps), mean, -math.inf, math.inf, 1.0, 1.0, differing)
    higher, lower = p_at_most(gaps, 0.0, limits), p_at_least(gaps, 0.0, limits)
    return Difference(documents, len(gaps), mean, *found, higher, lower, differing)
