"""FLOPs of a family's decoder, from a configuration alone: before weights load, or without any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dynamax_lm.core.costs import DecoderCosts, HybridCosts, LayerCosts
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.block import BlockCosts, FeedForward
from dynamax_lm.decoders.description import Family, layers_of, window_of


def decoder_costs(family: Family, config: Any) -> DecoderCosts:
    """FLOPs of all layers."""
    layers = layer_costs(family, config)
    if len(set(layers)) == 1:
        return layers[0]
    return HybridCosts(tuple(layers))


def layer_costs(family: Family, config: Any) -> list[LayerCosts]:
    """FLOPs of each layer, bottom to top."""
    return [
        _layer(family, config, index, name) for index, name in enumerate(layers_of(family, config))
    ]


def _layer(family: Family, config: Any, index: int, name: str) -> LayerCosts:
    """FLOPs of layer ``index``: attention with a gated module as such, else as a block."""
    mixers = [_MIXERS[one](family, config, index) for one in name.split("+") if one in _MIXERS]
    fed = feed_forward_of(family, config, index) if family.block.feed_forward else None
    if name == "feed_forward":
        fed = feed_forward_of(family, config, index)
    first = mixers[0] if len(mixers) == 1 else None
    if fed is None and first is not None:
        return first
    if isinstance(first, AttentionCosts) and fed == FeedForward(dense=fed.dense if fed else 0):
        return replace(first, feedforward=fed.dense)
    return BlockCosts(
        n_layers=config.num_hidden_layers,
        width=config.hidden_size,
        vocabulary=config.vocab_size,
        mixers=tuple(mixers),
        feed_forward=fed,
    )


def feed_forward_of(family: Family, config: Any, index: int) -> FeedForward:
    """The feed-forward module of layer ``index``."""
    kind = family.model_type
    if kind == "mixtral":
        return FeedForward(
            experts=config.num_local_experts,
            chosen=config.num_experts_per_tok,
            expert=config.intermediate_size,
        )
    if kind == "qwen3_moe":
        sparse = config.num_experts > 0 and (index + 1) % config.decoder_sparse_step == 0
        if sparse and index not in config.mlp_only_layers:
            return FeedForward(
                experts=config.num_experts,
                chosen=config.num_experts_per_tok,
                expert=config.moe_intermediate_size,
            )
    return FeedForward(dense=config.intermediate_size)


def _attention(family: Family, config: Any, index: int) -> AttentionCosts:
    """Attention without a feed-forward module."""
    costs = AttentionCosts.from_config(config)
    return replace(costs, feedforward=0, window=window_of(family, config, index))


_MIXERS = {"attention": _attention}
