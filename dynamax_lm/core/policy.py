"""The exit policy: exit layers, a confidence measure, and a threshold or exit rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dynamax_lm.core.measures import facts_of
from dynamax_lm.core.prompt_maps import PromptExit, PromptMaps
from dynamax_lm.core.thresholds import ThresholdRule, cutoff_of


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """A token exits at the first exit whose confidence reaches the threshold.

    >>> policy = ExitPolicy(exit_layers=(4, 8), confidence="top_prob", threshold=0.9)
    >>> policy.exiting(torch.tensor([0.5, 0.95])).tolist()
    [False, True]

    Attributes:
        exit_layers: layers run before each exit, ascending, each in 1..L-1; empty for full depth.
        confidence: name of the measure.
        threshold: in [0, 1]; with 0 every token exits at the first exit, with 1 none exits. Under
            ``patience`` it may be written with two digits, see ``agreements_needed``.
        rule: the threshold at each exit and step; ``None`` for ``threshold`` everywhere.
        prompt_exit: layers that prompt tokens but the last run, 1..L; ``None`` for all.
        prompt_maps: of the layers above ``prompt_exit``; ``None`` for none.
    """

    exit_layers: tuple[int, ...] = ()
    confidence: str = "top_prob"
    threshold: float = 1.0
    rule: ThresholdRule | None = None
    prompt_exit: int | None = None
    prompt_maps: PromptMaps | None = None

    @property
    def of_prompts(self) -> PromptExit | None:
        """Where prompt tokens exit; ``None`` if they run all layers."""
        if self.prompt_exit is None:
            return None
        return PromptExit(self.prompt_exit, self.prompt_maps)

    @property
    def any_exits(self) -> bool:
        """Whether any token may exit, of answers or of prompts."""
        return bool(self.exit_layers) or self.prompt_exit is not None

    @property
    def needs_target(self) -> bool:
        """Whether the measure compares with full depth's token."""
        return bool(self.exit_layers) and facts_of(self.confidence).needs_target

    @property
    def reads_heads(self) -> bool:
        """Whether trained heads decide, so that their state must include every token."""
        return self.confidence == "head"

    @property
    def except_threshold(self) -> tuple[object, ...]:
        """All of the policy but its threshold: equal for policies that check the same exits."""
        maps = None if self.prompt_maps is None else self.prompt_maps.identity
        return self.exit_layers, self.confidence, self.rule, self.prompt_exit, maps

    def check_layers(self, n_layers: int) -> None:
        """Refuse exits that a decoder of ``n_layers`` does not have.

        Raises:
            ValueError: an exit layer outside 1..L-1, a prompt exit outside 1..L, or others' maps.
        """
        for layer in self.exit_layers:
            if not 1 <= layer < n_layers:
                raise ValueError(
                    f"exit_layers={self.exit_layers}: give layers in 1..{n_layers - 1}"
                )
        if self.prompt_exit is not None and not 1 <= self.prompt_exit <= n_layers:
            raise ValueError(f"prompt_exit={self.prompt_exit}: give a layer in 1..{n_layers}")
        if self.prompt_maps is not None and self.prompt_maps.prompt_exit != self.prompt_exit:
            own = self.prompt_maps.prompt_exit
            raise ValueError(f"prompt_exit={self.prompt_exit}: the prompt maps are of {own}")

    def exiting(self, confidence: Tensor, cutoffs: Tensor | None = None) -> Tensor:
        """(n,) bool: which tokens exit. Threshold 1 is infinite: float32 confidences can reach 1.0.

        Args:
            confidence: (n,) in [0, 1].
            cutoffs: (n,) in place of the policy's own threshold, from :meth:`cutoffs` or
                :meth:`cutoffs_at`; required under a rule.
        """
        if cutoffs is None:
            assert self.rule is None, "a rule's thresholds depend on exit and step: give cutoffs"
            (cutoffs,) = self.cutoffs([self.threshold])
        return (confidence >= cutoffs.to(confidence)) | cutoffs.isneginf().to(confidence.device)

    def cutoffs(self, thresholds: Sequence[float]) -> Tensor:
        """(n,) float32 least confidences at which a token exits, by ``thresholds``."""
        exits = len(self.exit_layers)
        cutoffs = [cutoff_of(one, self.confidence, exits) for one in thresholds]
        return torch.tensor(cutoffs, dtype=torch.float32)

    def cutoffs_at(self, steps: Sequence[int]) -> Tensor | None:
        """(N, E) float32 least confidences at which a token exits at each exit, by the rule.

        Args:
            steps: (N,) how many tokens of its answer precede each token.

        Returns:
            ``None`` where one threshold holds at every exit and step.
        """
        if self.rule is None:
            return None
        exits = len(self.exit_layers)
        rows = [_cutoffs_of(self.rule, self.confidence, exits, step) for step in steps]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), exits)


@lru_cache(maxsize=1 << 16)
def _cutoffs_of(rule: ThresholdRule, confidence: str, exits: int, step: int) -> tuple[float, ...]:
    """A rule's cutoffs at every exit."""
    thresholds = [rule.at(exit, step) for exit in range(exits)]
    for exit, threshold in enumerate(thresholds):
        if not 0.0 <= threshold <= 1.0:
            where = f"at exit {exit}, step {step}"
            raise ValueError(f"{rule}: threshold {threshold} {where}; stay within [0, 1]")
    return tuple(cutoff_of(threshold, confidence, exits) for threshold in thresholds)


FULL_DEPTH = ExitPolicy()
