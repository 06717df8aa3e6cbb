"""FLOPs of the fixed-depth baseline: a model that runs k layers for every token.

The model emits through a translator if it has one and checks no exits. The layers above k never
run and keep no state: billing state that is never read would make the baseline too weak (on Mamba-2
that state is two fifths of a layer).
"""

from __future__ import annotations

from typing import NamedTuple

from dynamax_lm.core.costs import DecoderCosts, norm_flops, unembed_flops


class FixedDepths(NamedTuple):
    """FLOPs of a set of tokens at every depth; linear in depth.

    Attributes:
        layer: one layer for all of them, attention at their real contexts.
        emission: norm and vocabulary projection for all of them.
        tokens: number of emitted tokens.
    """

    layer: float
    emission: float
    tokens: int

    @classmethod
    def of(cls, costs: DecoderCosts, layer: float, tokens: int) -> FixedDepths:
        """The depths of an architecture.

        Args:
            costs: the architecture.
            layer: FLOPs of one layer for all tokens, and for the prompts where these are included.
            tokens: number of emitted tokens.
        """
        return cls(layer, tokens * (norm_flops(costs) + unembed_flops(costs)), tokens)

    def at(self, depth: float, translator: int = 0) -> float:
        """FLOPs of ``depth`` layers for every token; ``translator``: FLOPs for each emission."""
        return depth * self.layer + self.emission + self.tokens * translator

    def depth(self, flops: float) -> float:
        """The depth that costs ``flops`` without a translator; may be fractional."""
        return (flops - self.emission) / self.layer
