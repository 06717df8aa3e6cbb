"""Platt scaling of a classifier's log-odds to probabilities, and quality measures of these.

Glossary: n held-out tokens checked at an exit, z their log-odds, y whether exiting was right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from dynamax_lm.common.reliability import Bools, Floats, calibration_error, ranking, reliability

_FLATTEST, _STEEPEST = 1e-3, 100.0


class Platt(NamedTuple):
    """Confidence = sigmoid(scale * z + bias)."""

    scale: float
    bias: float

    def __call__(self, logits: Floats) -> Floats:
        """(n,) probabilities of (n,) log-odds."""
        probabilities: Floats = expit(self.scale * logits + self.bias)
        return probabilities


IDENTITY = Platt(1.0, 0.0)


class Quality(NamedTuple):
    """Quality of a classifier on held-out tokens.

    Attributes:
        tokens: n.
        right: share of y.
        log_loss: mean, in nats.
        calibration_error: expected, over the bins (ECE), in [0, 1].
        ranking: probability that a right token has the higher confidence than a wrong one (AUC);
            0.5 where only one class occurs.
    """

    tokens: int
    right: float
    log_loss: float
    calibration_error: float
    ranking: float


def log_loss(logits: Floats, right: Bools) -> float:
    """Mean negative log-likelihood of (n,) labels under (n,) log-odds, in nats."""
    return float(np.mean(np.logaddexp(0.0, np.where(right, -logits, logits))))


def fit_platt(logits: Floats, right: Bools) -> Platt:
    """The scale and bias of least log loss (Platt 1999, with smoothed targets).

    The smoothed targets keep both finite for separable classes. The scale is always positive, so
    that the order of confidences does not change.

    Args:
        logits: (n,) finite.
        right: (n,).

    Returns:
        :data:`IDENTITY` where there is no token.
    """
    if not len(logits):
        return IDENTITY
    positives = int(right.sum())
    negatives = len(right) - positives
    target = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # standardised, so that the optimisation does not depend on the classifier's scale
    middle, spread = float(np.mean(logits)), float(np.std(logits)) or 1.0
    scaled = (logits - middle) / spread

    def loss(pair: Floats) -> tuple[float, Floats]:
        z = pair[0] * scaled + pair[1]
        value = np.mean(np.logaddexp(0.0, z) - target * z)
        error = expit(z) - target
        return float(value), np.array([np.mean(error * scaled), np.mean(error)])

    start = np.array([spread, middle])
    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(_FLATTEST * spread, _STEEPEST * spread), (None, None)],
    )
    slope, offset = (float(value) for value in found.x)
    return Platt(slope / spread, offset - slope * middle / spread)


def quality(logits: Floats, right: Bools, platt: Platt = IDENTITY) -> Quality:
    """Quality of ``platt`` over (n,) log-odds with (n,) labels; n is at least 1."""
    confidence = platt(logits)
    error = calibration_error(reliability(confidence, right))
    loss = log_loss(platt.scale * logits + platt.bias, right)
    return Quality(len(right), float(right.mean()), loss, error, ranking(logits, right))
