"""The losses of head training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def plain_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean binary cross-entropy: its minimum is the calibrated probability.

    Args:
        logits: (n,) log-odds.
        labels: (n,) bool.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of the two classes' mean cross-entropies, as CALM's code balances them.

    Source: ``loss_fn_meta_cls`` in google-research/t5x, t5x/contrib/calm/models.py.

    If only one class occurs, its mean. Log-odds are shifted by those of the classes' shares, which
    calibration corrects.

    Args:
        logits: (n,) log-odds.
        labels: (n,) bool.
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    right = labels.float()
    wrong = 1.0 - right
    classes = torch.stack([right.sum(), wrong.sum()])
    means = torch.stack([(each * right).sum(), (each * wrong).sum()]) / classes.clamp(min=1.0)
    return means.sum() / (classes > 0).sum().clamp(min=1)


CLASSIFIER_LOSSES = {"plain": plain_cross_entropy, "balanced": balanced_cross_entropy}


def distillation(exit_logits: Tensor, full_logits: Tensor) -> Tensor:
    """(n,) KL divergence of the exit's distribution from full depth's, in nats.

    Args:
        exit_logits: (n, V).
        full_logits: (n, V).
    """
    full = full_logits.float().log_softmax(-1)
    return (full.exp() * (full - exit_logits.float().log_softmax(-1))).sum(-1)


def exit_weights(exits: int, decay: float) -> list[float]:
    """Weights that decrease linearly along the exits from 1 to 1 - ``decay``, with a mean of 1.

    Args:
        exits: their number, at least 1.
        decay: in [0, 1]; 0 for equal weights.
    """
    raw = [1.0 - decay * number / max(1, exits - 1) for number in range(exits)]
    return [weight * exits / sum(raw) for weight in raw]
