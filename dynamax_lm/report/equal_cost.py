"""Differences to a baseline of equal cost, where the cost is itself estimated from documents.

The depth of equal cost varies with the sampled documents, and where agreement rises steeply with
depth that error is larger than the difference itself: an interval with the depth taken as known
reported a difference for ties in half of all draws of 1,000 documents. Here the cost has an
interval of its own, and a claim must hold against the baseline of every cost in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from dynamax_lm.common.intervals import (
    FEWEST,
    LEVEL,
    Bounds,
    Floats,
    mean_interval,
    p_at_least,
    p_at_most,
)

_SIDE = (1 - LEVEL) / 2
_LEVELS = tuple(_SIDE * 3.0**power for power in range(3, -13, -1))
"""P-values are rounded up to one of these, or to 1."""
_BETWEEN = 5
"""Number of costs of an interval at which a claim is tested; differences are continuous in them."""


@dataclass(frozen=True)
class Path:
    """Values of fixed depths for each document, by their cost.

    Attributes:
        costs: (P,) of each measured depth, ascending, as a share of full depth's FLOPs.
        values: (P, n) of each document at each.
        whole: whether the last is full depth, the largest cost.
    """

    costs: Floats
    values: Floats
    whole: bool

    def at(self, cost: float) -> Floats:
        """(n,) expected values under the mixture of two neighbouring depths that costs ``cost``."""
        if len(self.costs) == 1:
            return np.asarray(self.values[0], dtype=np.float64)
        place = int(np.clip(np.searchsorted(self.costs, cost), 1, len(self.costs) - 1))
        low, high = self.costs[place - 1], self.costs[place]
        share = min(1.0, max(0.0, (cost - low) / (high - low)))
        mixed = (1 - share) * self.values[place - 1] + share * self.values[place]
        return np.asarray(mixed, dtype=np.float64)

    def fair(self, low: float, high: float, *, higher: bool) -> bool:
        """Whether a claim against depths of these costs is one against depths of equal cost.

        Below the least measured cost the baseline is that depth, which costs more: a setting that
        is better than it is better than one of equal cost, but not conversely. Above the largest
        measured cost it is the other way round, unless that is full depth.
        """
        return self.whole or high <= self.costs[-1] if higher else bool(self.costs[0] <= low)


@dataclass(frozen=True)
class Found:
    """A difference of means at equal cost.

    Attributes:
        gaps: (n,) first minus the baseline of the mean cost observed.
        low: lower end of the 95 % interval; minus infinity where there is none.
        high: upper end, likewise.
        p_higher: p-value of the hypothesis that the true mean difference is zero or less.
        p_lower: the same of zero or more.
    """

    gaps: Floats
    low: float
    high: float
    p_higher: float
    p_lower: float


def at_equal_cost(
    first: Sequence[float],
    path: Path,
    costs: Sequence[float],
    bounds: Bounds,
    cost_bounds: Bounds,
) -> Found:
    """The difference between a setting and the fixed depths that cost, on average, the same.

    At level u the cost's interval misses the true mean cost with probability u / 2 at most, and the
    gap to the baseline of the true cost is misjudged with probability u / 2 at most; the p-value is
    the least u at which the claim holds for every cost of the interval. Levels are nested, so that
    it is one. Each end of the difference's interval has half of the error probability of 5 %.

    Args:
        first: (n,) the setting's value of each document.
        path: of the fixed depths.
        costs: (n,) of the setting, as a share of full depth.
        bounds: of a value.
        cost_bounds: of a cost, by the rule's definition.

    Raises:
        ValueError: a value or cost outside its bounds.
    """
    ours, spent = np.asarray(first, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    gaps = ours - path.at(float(spent.mean()))
    if len(gaps) < FEWEST:
        return Found(gaps, -math.inf, math.inf, 1.0, 1.0)

    @cache
    def cost_interval(side: float) -> tuple[float, float]:
        return mean_interval(spent, cost_bounds, level=1 - 2 * side) or cost_bounds

    def tried(side: float, *, higher: bool) -> list[Floats] | None:
        """Gaps at costs of the interval with error probability ``side`` on each side."""
        low, high = cost_interval(side)
        if not path.fair(low, high, higher=higher):
            return None
        inner = [cost for cost in path.costs.tolist() if low < cost < high]
        places = sorted({*np.linspace(low, high, _BETWEEN).tolist(), *inner})
        return [ours - path.at(cost) for cost in places]

    def p_value(*, higher: bool) -> float:
        test, least = p_at_most if higher else p_at_least, 1.0
        for level in _LEVELS:
            some = tried(level / 4, higher=higher)
            if some is None or any(test(gap, 0.0, bounds.of_gaps) > level / 2 for gap in some):
                break
            least = level
        return least

    def end(*, higher: bool) -> float:
        some, place = tried(_SIDE / 4, higher=higher), 0 if higher else 1
        if some is None:
            return bounds.of_gaps[place]
        ends = [mean_interval(gap, bounds.of_gaps, level=1 - _SIDE) for gap in some]
        return (min if higher else max)(one[place] for one in ends if one)

    return Found(
        gaps, end(higher=True), end(higher=False), p_value(higher=True), p_value(higher=False)
    )
