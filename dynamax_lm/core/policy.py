"""When to leave: exit layers, a measure and a threshold.

Owns the rule. It does not know models or how a confidence is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dynamax_lm.core.measures import facts_of
from dynamax_lm.core.thresholds import ThresholdRule, bar_of


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """A token leaves at the first exit whose confidence reaches the threshold.

    Attributes:
        exit_layers: layers run before each question, ascending, each in 1..L-1; empty for
            full depth.
        confidence: name of the measure.
        threshold: in [0, 1]; 0 always leaves at the first exit, 1 never leaves. Under
            ``patience`` it may be written with two digits, see ``agreements_needed``.
        rule: which threshold holds at each exit and step; ``None`` for ``threshold`` at all.
    """

    exit_layers: tuple[int, ...] = ()
    confidence: str = "top_prob"
    threshold: float = 1.0
    rule: ThresholdRule | None = None

    @property
    def needs_target(self) -> bool:
        """Whether the measure asks for an exact full-depth token."""
        return bool(self.exit_layers) and facts_of(self.confidence).needs_target

    @property
    def question(self) -> tuple[tuple[int, ...], str, ThresholdRule | None]:
        """What is asked, whatever the threshold."""
        return self.exit_layers, self.confidence, self.rule

    def leaves(self, confidence: Tensor, bars: Tensor | None = None) -> Tensor:
        """(n,) bool: which tokens leave. A float32 probability can reach 1.0, hence the rule for 1.

        Args:
            confidence: (n,) in [0, 1].
            bars: what each confidence is compared with, see :meth:`bars` and :meth:`bars_at`, in
                place of the policy's own threshold; a rule needs them.
        """
        if bars is None:
            assert self.rule is None, "a rule's thresholds depend on exit and step: give bars"
            (bars,) = self.bars([self.threshold])
        return (confidence >= bars.to(confidence)) | bars.isneginf().to(confidence.device)

    def bars(self, thresholds: Sequence[float]) -> Tensor:
        """(n,) float32 numbers that confidences are compared with under ``thresholds``."""
        exits = len(self.exit_layers)
        bars = [bar_of(one, self.confidence, exits) for one in thresholds]
        return torch.tensor(bars, dtype=torch.float32)

    def bars_at(self, steps: Sequence[int]) -> Tensor | None:
        """(N, E) float32 what confidences are compared with at each exit, by the policy's rule.

        Args:
            steps: (N,) how many tokens of its answer come before each token.

        Returns:
            ``None`` where one threshold holds at every exit and step.
        """
        if self.rule is None:
            return None
        exits = len(self.exit_layers)
        rows = [_bars_of(self.rule, self.confidence, exits, step) for step in steps]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), exits)


@lru_cache(maxsize=1 << 16)
def _bars_of(rule: ThresholdRule, confidence: str, exits: int, step: int) -> tuple[float, ...]:
    """A rule's bars at every exit."""
    thresholds = [rule.at(exit, step) for exit in range(exits)]
    for exit, threshold in enumerate(thresholds):
        if not 0.0 <= threshold <= 1.0:
            where = f"at exit {exit}, step {step}"
            raise ValueError(f"{rule}: threshold {threshold} {where}; stay within [0, 1]")
    return tuple(bar_of(threshold, confidence, exits) for threshold in thresholds)


FULL_DEPTH = ExitPolicy()
