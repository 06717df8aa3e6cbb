"""When to leave: exit layers, a measure and a threshold.

Owns the rule. It does not know models or how a confidence is computed.
"""

from __future__ import annotations

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

    def leaves(self, confidence: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """(n,) bool: which tokens leave. A float32 probability can reach 1.0, hence the rule for 1.

        Args:
            confidence: (n,) in [0, 1].
            thresholds: (n,) of each token, in place of the policy's own.
        """
        if thresholds is not None:
            reached = confidence >= thresholds.to(confidence)
            return (reached & (thresholds < 1.0)) | (thresholds <= 0.0)
        if self.threshold >= 1.0:
            return torch.zeros_like(confidence, dtype=torch.bool)
        if self.threshold <= 0.0:
            return torch.ones_like(confidence, dtype=torch.bool)
        return confidence >= self.threshold


FULL_DEPTH = ExitPolicy()
