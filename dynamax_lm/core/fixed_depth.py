"""What a fixed depth costs: a model that ends after k layers, whatever its tokens look like.

Owns the one account of static baselines. Such a model runs k layers for every token and emits once,
through a translator if it has one. Nothing is asked at exits, and the layers above k never run, so
that they keep no state: a baseline that paid for state which nobody reads would be a weak one (on
Mamba-2 that state is two fifths of a layer). It does not know quality.
"""

from __future__ import annotations

from typing import NamedTuple

from dynamax_lm.core.ledger import DecoderCosts, norm_flops, unembed_flops


class FixedDepths(NamedTuple):
    """FLOPs of the same tokens at every depth; linear in depth.

    Attributes:
        layer: one layer for all of them, attention at their real contexts.
        emission: norm and vocabulary projection for all of them.
        tokens: emitted.
    """

    layer: float
    emission: float
    tokens: int

    @classmethod
    def of(cls, costs: DecoderCosts, layer: float, tokens: int) -> FixedDepths:
        """The depths of an architecture.

        Args:
            costs: the architecture.
            layer: FLOPs of one layer for all tokens, and for the prompts where these count too.
            tokens: emitted.
        """
        return cls(layer, tokens * (norm_flops(costs) + unembed_flops(costs)), tokens)

    def at(self, depth: float, translator: int = 0) -> float:
        """FLOPs of always leaving at ``depth``, through a translator of so many FLOPs a token."""
        return depth * self.layer + self.emission + self.tokens * translator

    def depth(self, flops: float) -> float:
        """The depth of so many FLOPs, without a translator; a fraction lies between two depths."""
        return (flops - self.emission) / self.layer
