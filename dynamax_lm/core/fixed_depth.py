"""FLOPs of the fixed-depth baseline: a model that runs k layers for every token.

The model emits through a translator if it has one and checks no exits. The layers above k never
run and keep no state: billing state that is never read would make the baseline too weak (on Mamba-2
that state is two fifths of a layer).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from dynamax_lm.core.costs import DecoderCosts, HybridCosts, norm_flops, unembed_flops


class FixedDepths(NamedTuple):
    """FLOPs of a set of tokens at every depth; linear in depth where layers cost the same.

    Attributes:
        layer: one layer for all of them, attention at their real contexts; a mean over layers.
        emission: norm and vocabulary projection for all of them.
        tokens: number of emitted tokens.
        shares: (L + 1,) share of all layers' FLOPs below each depth, from 0; empty where layers
            cost the same.
    """

    layer: float
    emission: float
    tokens: int
    shares: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, costs: DecoderCosts, layer: float, tokens: int, passed: int | None = None
    ) -> FixedDepths:
        """The depths of an architecture.

        Args:
            costs: the architecture.
            layer: FLOPs of one layer for all tokens, and for the prompts where these are included.
            tokens: number of emitted tokens.
            passed: number of tokens of ``layer``, those of prompts included; ``tokens`` by default.
        """
        emission = tokens * (norm_flops(costs) + unembed_flops(costs))
        shares = _shares(costs, layer, tokens if passed is None else passed)
        return cls(layer, emission, tokens, shares)

    def at(self, depth: float, translator: int = 0) -> float:
        """FLOPs of ``depth`` layers for every token; ``translator``: FLOPs for each emission."""
        return self._layers(depth) + self.emission + self.tokens * translator

    def _layers(self, depth: float) -> float:
        if not self.shares:
            return depth * self.layer
        count = len(self.shares) - 1
        return count * self.layer * _between(depth, range(count + 1), self.shares)

    def depth(self, flops: float) -> float:
        """The depth that costs ``flops`` without a translator; may be fractional."""
        layers = (flops - self.emission) / self.layer
        if not self.shares:
            return layers
        count = len(self.shares) - 1
        return _between(layers / count, self.shares, range(count + 1))


def _shares(costs: DecoderCosts, layer: float, passed: int) -> tuple[float, ...]:
    """See ``FixedDepths.shares``: those of a token that costs what the tokens cost on average.

    Exact where costs are linear in the position; with windows the token stands for all.
    """
    if not isinstance(costs, HybridCosts) or not passed or not layer:
        return ()
    mean = layer * costs.n_layers / passed
    low, high = 0.0, 1.0
    while _at(costs, high)[-1] < mean and high < _FARTHEST:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at(costs, middle)[-1] < mean else (low, middle)
    sums = _at(costs, low)
    return tuple(one / sums[-1] for one in sums)


_FARTHEST = 1 << 24


def _between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Linear interpolation at ``x`` over ascending ``xs``; the ends beyond them."""
    place = bisect_right(xs, x)
    if place in {0, len(xs)}:
        return float(ys[0 if place == 0 else -1])
    low, high = xs[place - 1], xs[place]
    return ys[place - 1] + (ys[place] - ys[place - 1]) * (x - low) / (high - low)


def _at(costs: HybridCosts, position: float) -> list[float]:
    """(L + 1,) FLOPs of the layers below each depth, between two positions if need be."""
    whole = int(position)
    rest = position - whole
    layers = [
        (1 - rest) * kind.layer(whole) + (rest * kind.layer(whole + 1) if rest else 0.0)
        for kind in costs.kinds
    ]
    return [0.0, *accumulate(layers)]
