"""The training objective of one batch: distillation of translators, and losses of classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.train.backbone import Observation
from dynamax_lm.heads.train.labels import agreement
from dynamax_lm.heads.train.losses import CLASSIFIER_LOSSES, distillation, exit_weights

Unembed = Callable[[Tensor], Tensor]
"""(n, D) to (n, V) logits: final norm and vocabulary projection."""

_CHUNK = 1024  # tokens whose logits are in memory at a time


class Losses(NamedTuple):
    """Losses and shares of one batch.

    Attributes:
        total: to minimise.
        translator: (E,) distillation per exit, in nats; not in ``total`` where not trained.
        classifier: (E,) cross-entropy per exit; 0 without a classifier.
        right: (E,) share of tokens at which exiting is right.
    """

    total: Tensor
    translator: Tensor
    classifier: Tensor
    right: Tensor


class Objective(nn.Module):
    """The heads with their losses, as one module that ``accelerate`` can spread over devices.

    Args:
        heads: trained in place.
        unembed: of the frozen backbone.
        top_k: of the labels.
        loss: a name in :data:`CLASSIFIER_LOSSES`.
        decay: of the weights along the exits, see :func:`exit_weights`.
        thin: whether tokens exit at random at exits that are right, so that later exits are
            trained on the others, as at run time.
    """

    def __init__(
        self,
        heads: ExitHeads,
        unembed: Unembed,
        *,
        top_k: int,
        loss: str,
        decay: float,
        thin: bool,
    ) -> None:
        super().__init__()
        self.heads = heads
        self._unembed = unembed
        self._top_k = top_k
        self._loss = CLASSIFIER_LOSSES[loss]
        self._weights = exit_weights(len(heads.config.exit_layers), decay)
        self._thin = thin

    def forward(self, seen: Observation, translators: bool, classifiers: bool, seed: int) -> Losses:
        """The losses of one batch.

        Args:
            seen: of the backbone.
            translators: whether the translators are trained at this step.
            classifiers: whether the classifiers are trained; their loss has no gradient in the
                translators.
            seed: of the thinning.
        """
        layers = self.heads.config.exit_layers
        total = seen.full_logits.new_zeros(())
        divergences, labels = [], []
        for layer, hidden, weight in zip(layers, seen.hidden, self._weights, strict=True):
            divergence, right = self._exit(layer, hidden[seen.real], seen.full_logits, translators)
            if translators:
                total = total + weight * divergence
            divergences.append(divergence.detach())
            labels.append(right)
        errors = torch.zeros(len(layers), device=total.device)
        if classifiers:
            each = self._classify(seen, labels, seed)
            for weight, error in zip(self._weights, each, strict=True):
                total = total + weight * error
            errors = torch.stack([error.detach() for error in each])
        shares = torch.stack([right.float().mean() for right in labels])
        return Losses(total / len(layers), torch.stack(divergences), errors, shares)

    def _exit(
        self, layer: int, hidden: Tensor, full_logits: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor]:
        """Mean divergence, and (n,) labels, of (n, D) tokens; in slices, to save memory."""

        def part(some: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
            logits = self._unembed(self.heads.translate(layer, some))
            return distillation(logits, full).sum(), agreement(logits.detach(), full, self._top_k)

        total, labels = full_logits.new_zeros(()), []
        pieces = zip(hidden.split(_CHUNK), full_logits.split(_CHUNK), strict=True)
        with torch.set_grad_enabled(learns):
            for some, full in pieces:
                if learns and hidden.shape[0] > _CHUNK:
                    divergence, right = checkpoint(part, some, full, use_reentrant=False)
                else:
                    divergence, right = part(some, full)
                total = total + divergence
                labels.append(right)
        return total / hidden.shape[0], torch.cat(labels)

    def _classify(self, seen: Observation, labels: Sequence[Tensor], seed: int) -> list[Tensor]:
        """The classifiers' loss at each exit."""
        layers = self.heads.config.exit_layers
        right = [torch.zeros_like(seen.real).masked_scatter(seen.real, one) for one in labels]
        masks = reached(seen.real, right, seed) if self._thin else [seen.real] * len(layers)
        logits = self.heads.training_logits(
            dict(zip(layers, seen.hidden, strict=True)), dict(zip(layers, masks, strict=True))
        )
        losses = []
        for layer, mask, label in zip(layers, masks, right, strict=True):
            reaching = logits[layer][mask]
            losses.append(self._loss(reaching, label[mask]) if len(reaching) else reaching.sum())
        return losses


def reached(real: Tensor, right: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Which tokens are checked at each exit, if some exit where exiting is right.

    Each row draws its own exit probability, uniform in [0, 1], to cover different thresholds.

    Args:
        real: (B, A) bool, tokens and not padding.
        right: per exit (B, A) bool.
        seed: of the draw.

    Returns:
        Per exit (B, A) bool, each within the one before.
    """
    generator = torch.Generator().manual_seed(seed)
    exit_rate = torch.rand(real.shape[0], 1, generator=generator)
    masks = [real]
    for one in right[:-1]:
        exits = (torch.rand(real.shape, generator=generator) < exit_rate).to(real.device) & one
        masks.append(masks[-1] & ~exits)
    return masks
