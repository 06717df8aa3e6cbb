"""FLOPs of attention layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dynamax_lm.core.costs import LayerCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCosts(LayerCosts):
    """A decoder of grouped-query attention and a gated feed-forward block (Mistral, Llama).

    >>> widths = {"width": 8, "feedforward": 16, "query_heads": 2, "kv_heads": 1, "head_dim": 4}
    >>> costs = AttentionCosts(n_layers=2, vocabulary=32, **widths)
    >>> costs.layer(9) > costs.layer(0)  # attention reads more keys
    True

    Attributes:
        n_layers: L, at least 1.
        width: D.
        feedforward: width of the gated feed-forward block.
        query_heads: heads of Q.
        kv_heads: heads of K and of V.
        head_dim: width of one head.
        vocabulary: V.
        window: largest number of visible keys, the token's own included; ``None`` without a sliding
            window.
    """

    KIND: ClassVar[str] = "attention"
    KEY: ClassVar[str] = "attention"
    SKIPPED: ClassVar[Mapping[str, Callable[[Any], int]]] = {
        "propagate": lambda costs: costs.kv_projections,
        "copy_kv": lambda costs: 0,  # copies only
    }

    n_layers: int
    width: int
    feedforward: int
    query_heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    window: int | None = None

    @classmethod
    def from_config(cls, config: Any) -> AttentionCosts:
        """Read the attributes of a transformers ``MistralConfig`` or ``LlamaConfig``."""
        heads: int = config.num_attention_heads
        kv_heads: int | None = getattr(config, "num_key_value_heads", None)
        head_dim: int | None = getattr(config, "head_dim", None)
        return cls(
            n_layers=config.num_hidden_layers,
            width=config.hidden_size,
            feedforward=config.intermediate_size,
            query_heads=heads,
            kv_heads=heads if kv_heads is None else kv_heads,
            head_dim=config.hidden_size // heads if head_dim is None else head_dim,
            vocabulary=config.vocab_size,
            window=(
                None
                if getattr(config, "model_type", None) == "llama"
                else getattr(config, "sliding_window", None)
            ),
        )

    @property
    def kv_projections(self) -> int:
        """The K and V projections."""
        return 2 * 2 * self.width * self.kv_heads * self.head_dim

    @property
    def projections(self) -> int:
        """The products that do not depend on the context: Q, K, V, output, gate, up and down."""
        attention = 2 * 2 * self.width * self.query_heads * self.head_dim
        return attention + self.kv_projections + 3 * 2 * self.width * self.feedforward

    @property
    def context_per_key(self) -> int:
        """Scores and weighted values, for one visible key."""
        return 2 * 2 * self.query_heads * self.head_dim

    def keys(self, position: int) -> int:
        """Keys visible to the token at ``position``, its own included."""
        return position + 1 if self.window is None else min(position + 1, self.window)

    def layer(self, position: int) -> int:
        """One layer for the token at ``position``, counted from 0."""
        return self.projections + self.context_per_key * self.keys(position)

    def prompt_layer(self, tokens: int) -> int:
        """One layer for positions 0..tokens-1, each at its real context."""
        growing = tokens if self.window is None else min(tokens, self.window)
        keys = growing * (growing + 1) // 2 + (tokens - growing) * (self.window or 0)
        return tokens * self.projections + self.context_per_key * keys
