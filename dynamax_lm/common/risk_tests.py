"""P-values of the hypothesis that a mean loss exceeds a risk bound: three tests.

Each takes the losses of independent documents, at most 1 each, and returns a number p with
``P(p <= u) <= u`` for every u in [0, 1] whenever the mean loss is at least ``risk``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

Losses: TypeAlias = NDArray[np.float64]

PValue: TypeAlias = Callable[[Losses, float, float], float]
"""``p_value(losses, risk, delta)``; ``delta``, the level of the test, may tune its power."""

_CAP = 0.9
_PRIOR_DOCUMENTS = 5.0


def binomial(losses: Losses, risk: float, delta: float) -> float:
    """Exact: the probability of at most this many losses among n, each of probability ``risk``.

    Args:
        losses: (n,), each 0 or 1.
        risk: in (0, 1).
        delta: not used.

    Returns:
        ``P(Binomial(n, risk) <= sum of losses)``.
    """
    del delta
    if not np.isin(losses, (0.0, 1.0)).all():
        raise ValueError("the binomial test is for losses of 0 and 1")
    return float(binom.cdf(int(losses.sum()), losses.size, risk))


def betting(losses: Losses, risk: float, delta: float) -> float:
    """For losses of at most 1: one over the capital of bets that their mean is lower.

    The bet ``bet_t`` >= 0 on document t depends only on the documents before it; capital is
    multiplied by ``1 + bet_t (risk - loss_t)``. If the mean loss is ``risk`` or more, no
    strategy makes capital grow on average, and by Ville's inequality it ever reaches 1/u with
    probability u at most: Waudby-Smith & Ramdas (arXiv 2010.09686). Any stakes are valid
    that cannot lose everything, ``bet_t < 1 / (1 - risk)``; theirs, tuned for level ``delta`` after
    n documents, adapt to the variance seen so far, and that is where the power over
    Hoeffding-Bentkus comes from. Their start is as if five documents had been seen of mean ``risk``
    and the largest variance that losses in [0, 1] of that mean can have.

    Args:
        losses: (n,), each at most 1, in an order chosen without looking at them.
        risk: in (0, 1).
        delta: in (0, 1), the level that stakes are tuned for.

    Returns:
        One over the largest capital.
    """
    if losses.max(initial=0.0) > 1:
        raise ValueError("losses are at most 1")
    n = losses.size
    seen = np.arange(1, n + 1) + _PRIOR_DOCUMENTS
    mean = (_PRIOR_DOCUMENTS * risk + np.cumsum(losses)) / seen
    widest = risk * (1 - risk)
    variance = (_PRIOR_DOCUMENTS * widest + np.cumsum((losses - mean) ** 2)) / seen
    before = np.concatenate(([widest], variance[:-1]))
    bets = np.minimum(np.sqrt(2 * np.log(1 / delta) / (n * before)), _CAP / (1 - risk))
    capital = np.cumsum(np.log1p(bets * (risk - losses)))
    return min(1.0, float(np.exp(-capital.max(initial=0.0))))


def betting_on_differences(losses: Losses, risk: float, delta: float) -> float:
    """`betting` for losses in [-1, 1], which are moved and shrunk into [0, 1] first.

    Args:
        losses: (n,), each in [-1, 1].
        risk: in (0, 1), for the losses as they are.
        delta: in (0, 1).
    """
    if losses.min(initial=0.0) < -1:
        raise ValueError("differences lie in [-1, 1]")
    return betting((losses + 1) / 2, (risk + 1) / 2, delta)
