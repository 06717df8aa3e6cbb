"""What few documents say of a mean: intervals and p-values that hold for any bounded values.

Owns the statistics of means over documents. It does not know what the values are.

A percentile bootstrap resamples what it saw. Gaps to a static baseline are often a little above
zero and seldom far below it; few documents may hold none of the seldom ones, and then every
resample lies above zero although the true mean does not. What is used here asks only that documents
are independent draws and that values lie within known bounds, and then holds for every number of
documents: the capital of a gambler who bets, one document after another, that the mean is higher
than m. If it is not, no stakes make capital grow on average, and by Ville's inequality it ever
reaches 1/u with probability u at most (Waudby-Smith & Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 2024, arXiv 2010.09686, sections 3 and 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
FEWEST = 6
"""A bet on the sign of values in [-1, 1] at most doubles its capital with each document, and
2^5 < 2 / (1 - LEVEL) <= 2^6: no five documents can show a difference at this level."""

_STAKES_LEVEL = 0.001
"""The level that stakes are tuned for. Any is valid; this one serves one comparison and the
stricter levels of many."""
_CAP = 0.9
"""The most that one document can cost, as a share of the capital."""
_PRIOR_MEAN, _PRIOR_VARIANCE = 0.5, 0.25
"""Of one document seen before the first: the widest that values in [0, 1] can lie."""


class Bounds(NamedTuple):
    """Between what values lie, whatever was observed.

    Attributes:
        low: the least that a value can be.
        high: the greatest.
    """

    low: float
    high: float

    @property
    def of_gaps(self) -> Bounds:
        """Between what the difference of two such values lies."""
        width = self.high - self.low
        return Bounds(-width, width)


SHARE = Bounds(0.0, 1.0)


def p_at_most(values: Sequence[float] | Floats, mean: float, bounds: Bounds) -> float:
    """The p-value of the hypothesis that the true mean is ``mean`` or less.

    It does not fall as ``mean`` grows, so that the means it does not reject form an interval.

    Args:
        values: one a document, all within ``bounds``.
        mean: within ``bounds``.
        bounds: of a value.

    Returns:
        p with ``P(p <= u) <= u`` for every u in [0, 1] under the hypothesis.

    Raises:
        ValueError: no values, a value outside its bounds, or a mean outside them.
    """
    scaled = _scaled(values, bounds)
    return _p_at_most(scaled, _place(mean, bounds))


def p_at_least(values: Sequence[float] | Floats, mean: float, bounds: Bounds) -> float:
    """The p-value of the hypothesis that the true mean is ``mean`` or more; see `p_at_most`."""
    scaled = _scaled(values, bounds)
    return _p_at_most(1.0 - scaled, 1.0 - _place(mean, bounds))


def mean_interval(
    values: Sequence[float] | Floats, bounds: Bounds, *, level: float = LEVEL
) -> tuple[float, float] | None:
    """The interval of the true mean: every mean that neither one-sided p-value rejects.

    Args:
        values: one a document, all within ``bounds``.
        bounds: of a value.
        level: its least coverage, in (0, 1), for every number of documents; each side is missed
            with probability ``(1 - level) / 2`` at most.

    Returns:
        Its ends, with the values' own mean between them; ``None`` for fewer than ``FEWEST`` values.

    Raises:
        ValueError: a value outside its bounds.
    """
    if len(values) < FEWEST:
        return None
    scaled = _scaled(values, bounds)
    own, side = float(scaled.mean()), (1 - level) / 2
    low = min(own, _least(scaled, side))
    high = max(own, 1.0 - _least(1.0 - scaled, side))
    width = bounds.high - bounds.low
    return bounds.low + width * low, bounds.low + width * high


def _scaled(values: Sequence[float] | Floats, bounds: Bounds) -> Floats:
    """``values`` moved and shrunk into [0, 1], in an order that does not depend on them.

    Files often keep documents in a meaningful order; bets are for draws, so they are shuffled.
    """
    array = np.asarray(values, dtype=np.float64)
    width = bounds.high - bounds.low
    slack = 1e-9 * width
    if not array.size or not np.isfinite(array).all():
        raise ValueError("a mean needs finite values")
    if array.min() < bounds.low - slack or array.max() > bounds.high + slack:
        raise ValueError(f"a value lies outside [{bounds.low:g}, {bounds.high:g}]")
    order = np.random.default_rng(0).permutation(array.size)
    return np.asarray(np.clip((array[order] - bounds.low) / width, 0.0, 1.0), dtype=np.float64)


def _place(mean: float, bounds: Bounds) -> float:
    if not bounds.low <= mean <= bounds.high:
        raise ValueError(f"a mean of {mean:g} lies outside [{bounds.low:g}, {bounds.high:g}]")
    return (mean - bounds.low) / (bounds.high - bounds.low)


def _p_at_most(scaled: Floats, mean: float) -> float:
    return math.exp(-_log_capital(scaled, _stakes(scaled), mean))


def _stakes(scaled: Floats) -> Floats:
    """(n,) what is staked on each document, from the documents before it alone."""
    count = scaled.size
    seen = np.arange(1, count + 1) + 1.0
    mean = (_PRIOR_MEAN + np.cumsum(scaled)) / seen
    variance = (_PRIOR_VARIANCE + np.cumsum((scaled - mean) ** 2)) / seen
    before = np.concatenate(([_PRIOR_VARIANCE], variance[:-1]))
    return np.asarray(np.sqrt(2 * math.log(1 / _STAKES_LEVEL) / (count * before)))


def _log_capital(scaled: Floats, stakes: Floats, mean: float) -> float:
    """The logarithm of the largest capital that bets on a mean above ``mean`` ever reached.

    Each factor, ``1 + min(stake, cap / mean) (value - mean)``, falls as ``mean`` grows.
    """
    bets = np.minimum(stakes, _CAP / mean) if mean > 0 else stakes
    capital = np.cumsum(np.log1p(bets * (scaled - mean)))
    return float(capital.max(initial=0.0))


def _least(scaled: Floats, side: float) -> float:
    """The least mean that is not rejected at level ``side``; 0 where none is."""
    from scipy.optimize import brentq

    stakes, needed = _stakes(scaled), math.log(1 / side)

    def over(mean: float) -> float:
        return _log_capital(scaled, stakes, mean) - needed

    if over(0.0) <= 0:
        return 0.0
    tolerance = 1e-9
    return max(0.0, float(brentq(over, 0.0, 1.0, xtol=tolerance)) - tolerance)
