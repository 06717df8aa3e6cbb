"""Intervals and p-values of means over documents, valid for bounded values at any sample size.

A percentile bootstrap can fail here. Gaps to a static baseline are often slightly above zero and
rarely far below it; a small sample may contain none of the rare ones, and then every resample is
above zero although the true mean is not. The tests here assume only that documents are independent
draws and that values have known bounds, and are then valid for every number of documents. They are
tests by betting: the capital of bets, one document after another, that the mean is higher than m.
If it is not, no strategy makes capital grow on average, and by Ville's inequality it ever reaches
1/u with probability at most u (Waudby-Smith & Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 2024, arXiv 2010.09686, sections 3 and 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
FEWEST = 6
"""A bet on the sign of values in [-1, 1] at most doubles its capital with each document, and
2^5 < 2 / (1 - LEVEL) <= 2^6: no five documents can show a difference at this level."""

_STAKES_LEVEL = 0.001
"""The level that bets are tuned for. Any is valid; this one suits a single comparison and the
stricter levels of several."""
_CAP = 0.9
"""The largest loss by one document, as a share of the capital."""
_PRIOR_MEAN, _PRIOR_VARIANCE = 0.5, 0.25
"""Of one prior document; the variance is the largest of values in [0, 1]."""


class Bounds(NamedTuple):
    """Bounds of values by definition, independent of the observed ones.

    Attributes:
        low: lower bound.
        high: upper bound.
    """

    low: float
    high: float

    @property
    def of_gaps(self) -> Bounds:
        """Bounds of the difference of two such values."""
        width = self.high - self.low
        return Bounds(-width, width)


SHARE = Bounds(0.0, 1.0)


def p_at_most(values: Sequence[float] | Floats, mean: float, bounds: Bounds) -> float:
    """The p-value of the hypothesis that the true mean is ``mean`` or less.

    It is nondecreasing in ``mean``, so that the means that are not rejected form an interval.

    Args:
        values: one for each document, all within ``bounds``.
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
        values: one for each document, all within ``bounds``.
        bounds: of a value.
        level: its least coverage, in (0, 1), for every number of documents; the error probability
            of each side is at most ``(1 - level) / 2``.

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


class Bets:
    """Bets that the mean of each of several rows of values is higher than a given one.

    For claims of many means at once: that all of them, or at least one, lie above something. What
    `p_at_most` does for one row is done for all in one pass.

    Args:
        values: (R, n) one row a mean, one column a document, all within ``bounds``.
        bounds: of a value.

    Raises:
        ValueError: no values, or a value outside its bounds.
    """

    def __init__(self, values: Floats, bounds: Bounds) -> None:
        self._scaled, self._bounds = _scaled(values, bounds), bounds
        self._stakes = _stakes(self._scaled)

    def log_capital(self, mean: float) -> Floats:
        """(R,) minus the logarithm of each row's p-value that its mean is ``mean`` or less."""
        return _log_capitals(self._scaled, self._stakes, _place(mean, self._bounds))

    def least(self, over: Callable[[Floats], float]) -> float:
        """The least mean at which the capitals no longer suffice.

        Args:
            over: by how much (R,) logarithms of capitals exceed what a claim needs; it does not
                fall where one of them rises.
        """
        low, width = self._bounds.low, self._bounds.high - self._bounds.low
        place = _root(lambda mean: over(_log_capitals(self._scaled, self._stakes, mean)))
        return low + width * place


def _scaled(values: Sequence[float] | Floats, bounds: Bounds) -> Floats:
    """``values`` scaled to [0, 1], in a random order that does not depend on them.

    Documents of a file are often sorted, and bets assume random draws.
    """
    array = np.asarray(values, dtype=np.float64)
    width = bounds.high - bounds.low
    slack = 1e-9 * width
    if not array.size or not np.isfinite(array).all():
        raise ValueError("a mean needs finite values")
    if array.min() < bounds.low - slack or array.max() > bounds.high + slack:
        raise ValueError(f"a value lies outside [{bounds.low:g}, {bounds.high:g}]")
    if width == 0:
        return np.zeros_like(array)
    order = np.random.default_rng(0).permutation(array.shape[-1])
    scaled = (array[..., order] - bounds.low) / width
    return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float64)


def _place(mean: float, bounds: Bounds) -> float:
    if not bounds.low <= mean <= bounds.high:
        raise ValueError(f"a mean of {mean:g} lies outside [{bounds.low:g}, {bounds.high:g}]")
    width = bounds.high - bounds.low
    return (mean - bounds.low) / width if width else 0.0


def _p_at_most(scaled: Floats, mean: float) -> float:
    return math.exp(-_log_capital(scaled, _stakes(scaled), mean))


def _stakes(scaled: Floats) -> Floats:
    """(..., n) the bet on each document, from the previous documents alone."""
    count = scaled.shape[-1]
    seen = np.arange(1, count + 1) + 1.0
    mean = (_PRIOR_MEAN + np.cumsum(scaled, axis=-1)) / seen
    variance = (_PRIOR_VARIANCE + np.cumsum((scaled - mean) ** 2, axis=-1)) / seen
    before = np.concatenate(
        [np.full_like(scaled[..., :1], _PRIOR_VARIANCE), variance[..., :-1]], axis=-1
    )
    return np.asarray(np.sqrt(2 * math.log(1 / _STAKES_LEVEL) / (count * before)))


def _log_capital(scaled: Floats, stakes: Floats, mean: float) -> float:
    return float(_log_capitals(scaled, stakes, mean))


def _log_capitals(scaled: Floats, stakes: Floats, mean: float) -> Floats:
    """(...) the logarithm of the largest capital reached by bets on a mean above ``mean``.

    Each factor, ``1 + min(stake, cap / mean) (value - mean)``, decreases as ``mean`` grows.
    """
    bets = np.minimum(stakes, _CAP / mean) if mean > 0 else stakes
    capital = np.cumsum(np.log1p(bets * (scaled - mean)), axis=-1)
    return np.asarray(capital.max(axis=-1, initial=0.0), dtype=np.float64)


def _least(scaled: Floats, side: float) -> float:
    """The least mean that is not rejected at level ``side``; 0 if none is rejected."""
    stakes, needed = _stakes(scaled), math.log(1 / side)
    return _root(lambda mean: _log_capital(scaled, stakes, mean) - needed)


def _root(over: Callable[[float], float]) -> float:
    """Where a function that falls over [0, 1] reaches 0, or just below; 0 where it starts there."""
    from scipy.optimize import brentq

    if over(0.0) <= 0:
        return 0.0
    tolerance = 1e-9
    return max(0.0, float(brentq(over, 0.0, 1.0, xtol=tolerance)) - tolerance)
