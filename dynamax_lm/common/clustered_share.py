"""The interval of a share of tokens whose documents are independent and whose tokens are not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dynamax_lm.common.intervals import LEVEL


class ShareInterval(NamedTuple):
    """An interval of a share, both ends in [0, 1]."""

    low: float
    high: float


def clustered_share(right: NDArray[np.bool_], documents: NDArray[np.int64]) -> ShareInterval:
    """The 95 % Wilson interval of a share, for as many tokens as the sample is worth.

    Tokens of one document resemble each other, so that n of them determine the share less well than
    n independent ones. Their effective number is n over the design effect, which is the variance of
    the share over documents as clusters divided by that of independent tokens, at least 1, and
    corrected for the few documents that it is estimated from (Korn and Graubard, "Confidence
    intervals for proportions with small expected number of positive counts estimated from survey
    data", Survey Methodology 24, 1998; with Wilson's interval: Dean and Pagano, "Evaluating
    confidence interval methods for binomial proportions in clustered surveys", Journal of Survey
    Statistics and Methodology 3, 2015). Where all tokens are alike nothing shows the effect,
    and each document counts as one token. One document alone gives [0, 1].

    Args:
        right: (n,), n >= 1.
        documents: (n,) the document of each.
    """
    _, place = np.unique(documents, return_inverse=True)
    tokens, clusters = len(right), int(place.max()) + 1
    if clusters == 1:
        return ShareInterval(0.0, 1.0)
    share = float(right.mean())
    quantile = float(stats.norm.ppf((1 + LEVEL) / 2))
    if 0 < share < 1:
        residuals = np.bincount(place, right - share)
        variance = clusters / (clusters - 1) * float(residuals @ residuals) / tokens**2
        independent = share * (1 - share) / tokens
        worth = tokens / max(1.0, variance / independent)
        worth *= (quantile / float(stats.t.ppf((1 + LEVEL) / 2, clusters - 1))) ** 2
    else:
        worth = float(clusters)
    return _wilson(share, worth, quantile)


def _wilson(share: float, tokens: float, quantile: float) -> ShareInterval:
    """Wilson's interval for a number of tokens that need not be whole (as scipy's requires)."""
    shrink = 1 + quantile**2 / tokens
    centre = (share + quantile**2 / (2 * tokens)) / shrink
    spread = share * (1 - share) / tokens + quantile**2 / (4 * tokens**2)
    half = quantile * spread**0.5 / shrink
    return ShareInterval(max(0.0, centre - half), min(1.0, centre + half))
