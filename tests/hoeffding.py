"""The bound that betting is compared with; certification does not use it."""

from __future__ import annotations

import numpy as np
from scipy.special import kl_div
from scipy.stats import binom

from dynamax_lm.common.risk_tests import Losses


def hoeffding_bentkus(losses: Losses, risk: float, delta: float) -> float:
    """For losses in [0, 1]; Bates et al. (arXiv 2101.02703), Angelopoulos et al. (2110.01052).

    Args:
        losses: (n,), each in [0, 1].
        risk: in (0, 1).
        delta: not used.

    Returns:
        The smaller of Hoeffding's ``exp(-n KL(mean, risk))`` and Bentkus'
        ``e P(Binomial(n, risk) <= ceil(n mean))``: both hold for the same tail, so their minimum
        does too.
    """
    del delta
    if losses.min(initial=0.0) < 0:
        raise ValueError("Hoeffding-Bentkus is for losses in [0, 1]")
    n, mean = losses.size, float(losses.mean())
    below = min(mean, risk)
    divergence = float(kl_div(below, risk) + kl_div(1 - below, 1 - risk))
    bentkus = np.e * float(binom.cdf(int(np.ceil(losses.sum() - 1e-9)), n, risk))
    return min(1.0, float(np.exp(-n * divergence)), bentkus)
