"""FLOPs of layers that pass the residual stream through a shared attention block (Zamba2).

The block reads the residual stream beside the token's embedding, and its output is added to the
input of the layer's state-space mixer. The state that the mixer has of a skipped token therefore
depends on the whole block, and its cost on the token's context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dynamax_lm.core.skipped_states import for_kind
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.block import BlockCosts

if TYPE_CHECKING:
    from dynamax_lm.core.skipped_states import SkippedFacts

_TAKEN_IN = "propagate"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAttentionCosts(AttentionCosts):
    """Attention that reads 2 * D elements and returns D, without a feed-forward block.

    Attributes:
        rank: of the adapters of Q, K and V, each from 2 * D to 2 * D; 0 without.
    """

    KIND: ClassVar[str] = "shared attention"

    rank: int = 0

    @property
    def adapter(self) -> int:
        """One adapter: its two products."""
        return 2 * 2 * (2 * self.width) * self.rank

    @property
    def kv_projections(self) -> int:
        """The K and V projections, with their adapters."""
        return 2 * 2 * (2 * self.width) * self.kv_heads * self.head_dim + 2 * self.adapter

    @property
    def projections(self) -> int:
        """The products that do not depend on the context: Q, K, V and output."""
        heads = self.query_heads * self.head_dim
        query, output = 2 * (2 * self.width) * heads + self.adapter, 2 * heads * self.width
        return query + self.kv_projections + output


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBlockCosts(BlockCosts):
    """A decoder of such layers: its ``mixers`` are shared attention and a state-space mixer.

    Attributes:
        rank: of the adapter of the feed-forward module, which has one in every layer.
    """

    KIND: ClassVar[str] = "a layer with a shared attention block"

    rank: int

    @property
    def fed_forward(self) -> int:
        """The feed-forward module and its adapter for one token, and the layer's own projection."""
        fed = self.feed_forward
        assert fed is not None
        adapter = 2 * self.rank * (self.width + 2 * fed.dense)
        return fed.flops(self.width) + adapter + 2 * self.width * self.width

    def skipped(self, skipped_state: str | SkippedFacts) -> int:
        """The states of one skipped layer for one token, without what grows with its context.

        Raises:
            ValueError: no such ``skipped_state``: only the package's are billed, and a mixer takes
                a token in only after the attention block.
        """
        attention, recurrent = self.mixers
        if not isinstance(skipped_state, str):
            raise ValueError(f"{self.KIND} has the package's own policies alone")
        if not self._takes_in(skipped_state):
            return attention.skipped(skipped_state) + recurrent.skipped(skipped_state)
        assert isinstance(attention, AttentionCosts)
        if for_kind(skipped_state, attention.KEY) != _TAKEN_IN:
            raise ValueError(
                f"{self.KIND} gives its state-space mixer what its attention reads: "
                f"{recurrent.KEY}:{_TAKEN_IN} needs {attention.KEY}:{_TAKEN_IN}"
            )
        return attention.projections + self.fed_forward + recurrent.skipped(_TAKEN_IN)

    def skipped_per_key(self, skipped_state: str | SkippedFacts) -> int:
        """Attention's products for each visible key, where the mixer takes the token in."""
        attention, _ = self.mixers
        assert isinstance(attention, AttentionCosts)
        return attention.context_per_key if self._takes_in(skipped_state) else 0

    def _takes_in(self, skipped_state: str | SkippedFacts) -> bool:
        """Whether the state-space mixer's state has the tokens that skip the layer."""
        if not isinstance(skipped_state, str):
            return False
        return for_kind(skipped_state, self.mixers[1].KEY) == _TAKEN_IN
