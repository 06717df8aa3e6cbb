"""When to leave: exit layers, a measure and a threshold.

Owns the rule. It does not know models or how a confidence is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """A token leaves at the first exit whose confidence reaches the threshold.

    Attributes:
        exit_layers: layers run before each question, ascending, each in 1..L-1; empty for
            full depth.
        confidence: name of the measure.
        threshold: in [0, 1]; 0 always leaves at the first exit, 1 never leaves.
    """

    exit_layers: tuple[int, ...] = ()
    confidence: str = "top_prob"
    threshold: float = 1.0

    @property
    def needs_target(self) -> bool:
        """Whether the measure asks for an exact full-depth token."""
        return bool(self.exit_layers) and self.confidence == "oracle"

    @property
    def question(self) -> tuple[tuple[int, ...], str]:
        """What is asked, whatever the threshold."""
        return self.exit_layers, self.confidence

    def leaves(self, confidence: Tensor, bars: Tensor | None = None) -> Tensor:
        """(n,) bool: which tokens leave. A float32 probability can reach 1.0, hence the rule for 1.

        Args:
            confidence: (n,) in [0, 1].
            bars: (n,) of each token, see :func:`bars_of`, in place of the policy's own threshold.
        """
        if bars is not None:
            return (confidence >= bars.to(confidence)) | bars.isneginf()
        if self.threshold >= 1.0:
            return torch.zeros_like(confidence, dtype=torch.bool)
        if self.threshold <= 0.0:
            return torch.ones_like(confidence, dtype=torch.bool)
        return confidence >= self.threshold


def bars_of(thresholds: Sequence[float]) -> Tensor:
    """(n,) float32 thresholds to compare with: minus infinity for always, infinity for never."""
    never, always = float("inf"), float("-inf")
    bars = [never if one >= 1.0 else always if one <= 0.0 else one for one in thresholds]
    return torch.tensor(bars, dtype=torch.float32)


FULL_DEPTH = ExitPolicy()
