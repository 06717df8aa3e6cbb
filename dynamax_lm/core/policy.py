"""When to leave: exit layers, a measure and a threshold.

Owns the rule. It does not know models or how a confidence is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamax_lm.core.measures import facts_of
from dynamax_lm.core.thresholds import bar_of


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """A token leaves at the first exit whose confidence reaches the threshold.

    Attributes:
        exit_layers: layers run before each question, ascending, each in 1..L-1; empty for
            full depth.
        confidence: name of the measure.
        threshold: in [0, 1]; 0 always leaves at the first exit, 1 never leaves. Under
            ``patience`` it may be written with two digits, see ``agreements_needed``.
    """

    exit_layers: tuple[int, ...] = ()
    confidence: str = "top_prob"
    threshold: float = 1.0

    @property
    def needs_target(self) -> bool:
        """Whether the measure asks for an exact full-depth token."""
        return bool(self.exit_layers) and facts_of(self.confidence).needs_target

    @property
    def question(self) -> tuple[tuple[int, ...], str]:
        """What is asked, whatever the threshold."""
        return self.exit_layers, self.confidence

    def leaves(self, confidence: Tensor, bars: Tensor | None = None) -> Tensor:
        """(n,) bool: which tokens leave. A float32 probability can reach 1.0, hence the rule for 1.

        Args:
            confidence: (n,) in [0, 1].
            bars: (n,) of each token, see :meth:`bars`, in place of the policy's own threshold.
        """
        if bars is None:
            (bars,) = self.bars([self.threshold])
        return (confidence >= bars.to(confidence)) | bars.isneginf().to(confidence.device)

    def bars(self, thresholds: Sequence[float]) -> Tensor:
        """(n,) float32 numbers that confidences are compared with under ``thresholds``."""
        exits = len(self.exit_layers)
        bars = [bar_of(one, self.confidence, exits) for one in thresholds]
        return torch.tensor(bars, dtype=torch.float32)


FULL_DEPTH = ExitPolicy()
