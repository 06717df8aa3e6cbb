"""FLOPs of a family's decoder, from a configuration alone: before weights load, or without any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dynamax_lm.core.costs import DecoderCosts, HybridCosts, LayerCosts
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.block import BlockCosts, FeedForward
from dynamax_lm.decoders.costs.mamba import MambaCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.costs.shared_block import SharedAttentionCosts, SharedBlockCosts
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
    if name == "shared_attention+mamba2":
        return SharedBlockCosts(
            **_whole(config),
            mixers=tuple(mixers),
            feed_forward=feed_forward_of(family, config, index),
            rank=config.adapter_rank,
        )
    fed = None
    if family.block.feed_forward or name == "feed_forward":
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
    if kind == "granitemoehybrid":
        return FeedForward(
            dense=config.shared_intermediate_size,
            experts=config.num_local_experts,
            chosen=config.num_experts_per_tok if config.num_local_experts else 0,
            expert=config.intermediate_size,
        )
    if kind == "jamba" and config.layers_num_experts[index] > 1:
        return FeedForward(
            experts=config.num_experts,
            chosen=config.num_experts_per_tok,
            expert=config.intermediate_size,
        )
    if kind == "nemotron_h" and config.layer_types[index] == "moe":
        return FeedForward(
            dense=config.moe_shared_expert_intermediate_size,
            experts=config.n_routed_experts,
            chosen=config.num_experts_per_tok,
            expert=config.moe_intermediate_size,
            products=2,
        )
    return FeedForward(dense=config.intermediate_size, products=2 if kind == "nemotron_h" else 3)


def _attention(family: Family, config: Any, index: int) -> AttentionCosts:
    """Attention without a feed-forward module."""
    costs = AttentionCosts.from_config(config)
    return replace(costs, feedforward=0, window=window_of(family, config, index))


def _shared_attention(family: Family, config: Any, index: int) -> SharedAttentionCosts:
    """Attention that reads the embedding beside the residual stream."""
    del family, index
    return SharedAttentionCosts(
        **_whole(config),
        feedforward=0,
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.attention_head_dim,
        rank=config.adapter_rank if config.use_shared_attention_adapter else 0,
    )


def _whole(config: Any) -> dict[str, int]:
    """The numbers of the whole decoder, which configurations of all families name alike."""
    return {
        "n_layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
    }


def _mamba2(family: Family, config: Any, index: int) -> Mamba2Costs:
    """A Mamba-2 mixer; hybrids name its numbers in several ways."""
    del index
    if family.model_type == "mamba2":
        return Mamba2Costs.from_config(config)
    shared = _whole(config)
    if family.model_type == "nemotron_h":
        return Mamba2Costs(
            **shared,
            inner=config.mamba_num_heads * config.mamba_head_dim,
            heads=config.mamba_num_heads,
            groups=config.n_groups,
            state_size=config.ssm_state_size,
            kernel=config.conv_kernel,
        )
    if family.model_type == "zamba2":
        return Mamba2Costs(
            **shared,
            inner=int(config.mamba_expand * config.hidden_size),
            heads=config.n_mamba_heads,
            groups=config.mamba_ngroups,
            state_size=config.mamba_d_state,
            kernel=config.mamba_d_conv,
        )
    own = getattr(config, "mamba_d_ssm", None)
    return Mamba2Costs(
        **shared,
        inner=int(config.mamba_expand * config.hidden_size) if own is None else own,
        heads=config.mamba_n_heads,
        groups=config.mamba_n_groups,
        state_size=config.mamba_d_state,
        kernel=config.mamba_d_conv,
    )


def _mamba(family: Family, config: Any, index: int) -> MambaCosts:
    """A Mamba-1 mixer."""
    del index
    shared = _whole(config)
    if family.model_type == "jamba":
        return MambaCosts(
            **shared,
            inner=config.mamba_expand * config.hidden_size,
            rank=config.mamba_dt_rank,
            state_size=config.mamba_d_state,
            kernel=config.mamba_d_conv,
        )
    return MambaCosts(
        **shared,
        inner=config.intermediate_size,
        rank=int(config.time_step_rank),
        state_size=config.state_size,
        kernel=config.conv_kernel,
    )


_MIXERS: dict[str, Callable[[Family, Any, int], LayerCosts]] = {
    "attention": _attention,
    "shared_attention": _shared_attention,
    "mamba2": _mamba2,
    "mamba": _mamba,
}
