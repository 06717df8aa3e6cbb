"""Differences to a baseline of equal cost, where the cost is itself estimated from documents.

The depth of equal cost varies with the sampled documents, and where agreement rises steeply with
depth that error is larger than the difference itself: an interval with the depth taken as known
reported a difference for ties in half of all draws of 1,000 documents. Here the cost has an
interval of its own, and a claim must hold against the baseline of every cost in it. The baseline of
a cost is the best mixture of two measured depths: where agreement is convex in depth, that of the
two nearest is weak, and weaker the more depths were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dynamax_lm.common.intervals import FEWEST, LEVEL, Bets, Bounds, Floats, mean_interval

_SIDE = (1 - LEVEL) / 2
_LEVELS = tuple(_SIDE * 3.0**power for power in range(3, -13, -1))
"""P-values are rounded up to one of these, or to 1."""
_BETWEEN = 5
"""Number of costs of an interval at which a claim is tested; differences are continuous in them."""


def mixtures(costs: Floats, cost: float) -> Floats:
    """Every mixture of two depths that costs as much as given, as odds of the depths.

    Args:
        costs: (P,) of the depths, ascending.
        cost: what the mixtures cost; below the first or above the last depth that depth stands.

    Returns:
        (K, P) rows that sum to 1: one for every pair of depths that encloses the cost, and one for
        every depth that costs exactly that.
    """
    cost = min(max(cost, float(costs[0])), float(costs[-1]))
    exact = np.eye(len(costs))[costs == cost]
    low, high = np.nonzero(np.outer(costs < cost, costs > cost))
    share = (cost - costs[low]) / (costs[high] - costs[low])
    pairs, rows = np.zeros((len(low), len(costs))), np.arange(len(low))
    pairs[rows, low], pairs[rows, high] = 1 - share, share
    return np.concatenate([exact, pairs])


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

    def mixtures(self, cost: float) -> Floats:
        """(K, n) expected values under every mixture of two depths that costs ``cost``."""
        return np.asarray(mixtures(self.costs, cost) @ self.values, dtype=np.float64)

    def best(self, cost: float) -> Floats:
        """(n,) expected values under the mixture of cost ``cost`` with the highest mean."""
        found = self.mixtures(cost)
        return np.asarray(found[found.mean(axis=1).argmax()], dtype=np.float64)

    def places(self, low: float, high: float) -> list[float]:
        """Costs from ``low`` to ``high`` at which to try a claim, measured depths among them."""
        inner = [cost for cost in self.costs.tolist() if low < cost < high]
        return sorted({*np.linspace(low, high, _BETWEEN).tolist(), *inner})

    def pairs(self, places: Sequence[float]) -> int:
        """The most pairs that enclose one cost between the first and the last of ``places``."""
        middles = (np.asarray(places[:-1]) + np.asarray(places[1:])) / 2
        below = np.searchsorted(self.costs, middles)
        between = (below * (len(self.costs) - below)).max(initial=1)
        return max(int(between), *(len(mixtures(self.costs, cost)) for cost in places))

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
        gaps: (n,) first minus the best mixture of the mean cost observed.
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
    gaps = ours - path.best(float(spent.mean()))
    if len(gaps) < FEWEST:
        return Found(gaps, -math.inf, math.inf, 1.0, 1.0)

    @cache
    def cost_interval(side: float) -> tuple[float, float]:
        return mean_interval(spent, cost_bounds, level=1 - 2 * side) or cost_bounds

    def claim(level: float, *, higher: bool) -> _Claim | None:
        """At costs of the interval with error probability ``level / 4`` on each side."""
        low, high = cost_interval(level / 4)
        if not path.fair(low, high, higher=higher):
            return None
        return _Claim.of(ours, path, path.places(low, high), level / 2, bounds, higher=higher)

    def p_value(*, higher: bool) -> float:
        least = 1.0
        for level in _LEVELS:
            one = claim(level, higher=higher)
            if one is None or not one.holds:
                break
            least = level
        return least

    def end(*, higher: bool) -> float:
        one = claim(_SIDE, higher=higher)
        if one is None:
            return bounds.of_gaps[0 if higher else 1]
        return one.end if higher else -one.end

    return Found(
        gaps, end(higher=True), end(higher=False), p_value(higher=True), p_value(higher=False)
    )


@dataclass(frozen=True)
class _Claim:
    """That a setting is higher, or lower, than the best mixture of every cost of an interval.

    Higher than the best is higher than every mixture: each is tested at the whole level, and all
    must be rejected. Lower than the best is lower than one of them: the level is shared among as
    many as can enclose a cost.

    Attributes:
        gaps: (R, n) to the mixtures of every cost, turned so that the claim is a mean above 0.
        starts: where the mixtures of each cost begin.
        needed: logarithm of the capital that rejects.
        bounds: of a gap.
        all_of_them: whether every mixture of a cost must be rejected, or one.
    """

    gaps: Floats
    starts: NDArray[np.int64]
    needed: float
    bounds: Bounds
    all_of_them: bool

    @classmethod
    def of(
        cls,
        ours: Floats,
        path: Path,
        places: Sequence[float],
        level: float,
        bounds: Bounds,
        *,
        higher: bool,
    ) -> _Claim:
        """The claim at costs ``places``, at one-sided ``level``."""
        found = [path.mixtures(cost) for cost in places]
        gaps = ours - np.concatenate(found)
        return cls(
            gaps=gaps if higher else -gaps,
            starts=np.cumsum([0, *map(len, found[:-1])]),
            needed=math.log((1 if higher else path.pairs(places)) / level),
            bounds=bounds.of_gaps,
            all_of_them=higher,
        )

    @property
    def holds(self) -> bool:
        """Whether it is shown."""
        return self._weakest(self._bets.log_capital(0.0)) >= self.needed

    @property
    def end(self) -> float:
        """The greatest gap, turned like the claim, that is shown; at most the one observed."""
        least = self._bets.least(lambda capital: self._weakest(capital) - self.needed)
        return min(least, self._weakest(self.gaps.mean(axis=1)))

    @property
    def _bets(self) -> Bets:
        return Bets(self.gaps, self.bounds)

    def _weakest(self, values: Floats) -> float:
        """Of (R,) values, one a mixture, the one that the claim hangs on."""
        reduce = np.minimum if self.all_of_them else np.maximum
        return float(reduce.reduceat(values, self.starts).min())
