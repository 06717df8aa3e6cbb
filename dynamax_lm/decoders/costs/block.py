"""FLOPs of blocks that join mixers of tokens and a feed-forward module.

A mixer is attention or a state-space layer; a block has one, several in parallel, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dynamax_lm.core.costs import LayerCosts

if TYPE_CHECKING:
    from dynamax_lm.core.skipped_states import SkippedFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """The feed-forward module of a block: dense, a mixture of experts, or their sum.

    Attributes:
        dense: inner width that every token passes, that of shared experts included.
        experts: experts to choose from, each with one output of the router; 0 for none.
        chosen: experts that a token passes.
        expert: inner width of an expert.
        products: matrix products of a module: 3 if it is gated, else 2.
    """

    dense: int = 0
    experts: int = 0
    chosen: int = 0
    expert: int = 0
    products: int = 3

    def flops(self, width: int) -> int:
        """One token, with a residual stream of ``width``."""
        inner = self.products * (self.dense + self.chosen * self.expert)
        return 2 * width * (inner + self.experts)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCosts(LayerCosts):
    """A decoder of such blocks, all alike.

    Attributes:
        n_layers: L, at least 1.
        width: D.
        vocabulary: V.
        mixers: in parallel, each without a feed-forward module; empty for a block without state.
        feed_forward: of the block; ``None`` for none.
    """

    KIND: ClassVar[str] = "a block without state"

    n_layers: int
    width: int
    vocabulary: int
    mixers: tuple[LayerCosts, ...] = ()
    feed_forward: FeedForward | None = None

    @property
    def parts(self) -> tuple[LayerCosts, ...]:
        """The mixers."""
        return self.mixers

    @property
    def fed_forward(self) -> int:
        """The feed-forward module for one token."""
        return 0 if self.feed_forward is None else self.feed_forward.flops(self.width)

    def layer(self, position: int) -> int:
        """One block for the token at ``position``, counted from 0."""
        return self.fed_forward + sum(mixer.layer(position) for mixer in self.mixers)

    def prompt_layer(self, tokens: int) -> int:
        """One block for positions 0..tokens-1."""
        mixed = sum(mixer.prompt_layer(tokens) for mixer in self.mixers)
        return tokens * self.fed_forward + mixed

    def skipped(self, skipped_state: str | SkippedFacts) -> int:
        """The state of every mixer of one skipped block for one token; 0 without any.

        Raises:
            ValueError: a mixer has no such ``skipped_state``.
        """
        return sum(mixer.skipped(skipped_state) for mixer in self.mixers)
