"""Reliability of confidences: bins, expected calibration error, and ranking (AUC), over arrays.

scikit-learn has both, with differences that matter here: its ``calibration_curve`` puts a value on
an edge into the lower bin (0.5 into 0.4 to 0.5), gives no counts, and refuses an empty sample; its
``roc_auc_score`` warns and gives NaN for a single class, which occurs at an exit that is always
right. Ties count one half in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 10


class Bin(NamedTuple):
    """Tokens whose confidence is in [low, high); the last bin includes 1.0.

    Attributes:
        low: lower end.
        high: upper end.
        tokens: their number.
        confidence: their mean confidence.
        right: share of them that are right.
    """

    low: float
    high: float
    tokens: int
    confidence: float
    right: float


def parts(confidence: Floats, bins: int = BINS) -> NDArray[np.int64]:
    """(n,) the part of [0, 1] that each of (n,) confidences is in, from 0."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def reliability(confidence: Floats, right: Bools, bins: int = BINS) -> list[Bin]:
    """The tokens by confidence, in ``bins`` equal parts of [0, 1]; empty parts are omitted.

    Args:
        confidence: (n,), in [0, 1].
        right: (n,).
        bins: how many parts.
    """
    part = parts(confidence, bins)
    rows = []
    for number in range(bins):
        inside = part == number
        if inside.any():
            mean, share = float(confidence[inside].mean()), float(right[inside].mean())
            rows.append(Bin(number / bins, (number + 1) / bins, int(inside.sum()), mean, share))
    return rows


def calibration_error(table: Sequence[Bin]) -> float:
    """The expected calibration error (ECE) of at least one bin, in [0, 1]."""
    error = sum(row.tokens * abs(row.confidence - row.right) for row in table)
    return float(error / sum(row.tokens for row in table))


def ranking(scores: Floats, right: Bools) -> float:
    """The probability that a right token scores above a wrong one (AUC).

    Args:
        scores: (n,); equal ones count one half.
        right: (n,).

    Returns:
        0.5 where only one class occurs.
    """
    positives = int(right.sum())
    negatives = len(right) - positives
    if not positives or not negatives:
        return 0.5
    ranks = rankdata(scores)
    above = ranks[right].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))
