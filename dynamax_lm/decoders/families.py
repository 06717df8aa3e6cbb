"""The table of families: by ``model_type``, how transformers' decoder of that type is built.

A row describes a block completely, by what it has; the adapters read the description, and
``decoders.check`` compares them with transformers' own layers when a checkpoint loads. To support a
further family of known kinds of layers, add its row; the tests run over the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from dynamax_lm.decoders.description import (
    LLAMA,
    STATE_SPACE,
    AttentionNames,
    BlockNames,
    Family,
    LayerName,
    ModuleNames,
    ScalingNames,
    text_config,
)


def _mixed_windows(config: Any) -> str | None:
    """Transformers' Mistral has one window in all layers; Ministral has mixed ones."""
    if getattr(config, "layer_types", None) and len(set(config.layer_types)) > 1:
        return "mixed layer_types, which transformers ignores for this model_type"
    return None


def _latent_experts(config: Any) -> str | None:
    if getattr(config, "moe_latent_size", None) is None:
        return None
    return f"moe_latent_size={config.moe_latent_size}, whose projections the ledger does not count"


def _long_context(config: Any) -> str | None:
    if not getattr(config, "use_long_context", False):
        return None
    return "use_long_context=True, whose rescaled rotary angles transformers does not compute"


def _bidirectional(config: Any) -> str | None:
    if getattr(config, "use_bidirectional_attention", False):
        return "bidirectional attention: tokens depend on later ones"
    return None


_SANDWICH = BlockNames(
    out_norm="post_attention_layernorm",
    ff_norm="pre_feedforward_layernorm",
    ff_out_norm="post_feedforward_layernorm",
)
_POST = BlockNames(
    norm="",
    out_norm="post_attention_layernorm",
    ff_norm="",
    ff_out_norm="post_feedforward_layernorm",
)
_EXPERTS = BlockNames(gated=False)
_HEAD_NORMS = AttentionNames(norms="head")

_PRE_FF = BlockNames(ff_norm="pre_ff_layernorm", feed_forward=("feed_forward",))
_MAMBA_MODULES = ModuleNames(base="backbone", embedding="embeddings", norm="norm_f", rotary="")
_FLOAT32 = ScalingNames(float32=True)


def _all(name: LayerName) -> Callable[[Any, int], LayerName]:
    """Every layer is of one kind."""
    return lambda config, index: name


def _by_type(recurrent: LayerName) -> Callable[[Any, int], LayerName]:
    """Layers as ``layer_types`` says, with state-space layers of the kind ``recurrent``."""
    kinds: dict[str, LayerName] = {
        "linear_attention": recurrent,
        "full_attention": "attention",
        "hybrid": "shared_attention+mamba2",
        "mlp": "feed_forward",
        "moe": "feed_forward",
    }
    return lambda config, index: kinds[config.layer_types[index]]


_MAMBA = Family(
    model_type="mamba",
    modules=_MAMBA_MODULES,
    scaling=_FLOAT32,
    block=STATE_SPACE,
    mixer="mixer",
    layer=_all("mamba"),
)

_ROWS = (
    Family(model_type="llama"),
    Family(model_type="mistral", windows="all", faults=(_mixed_windows,)),
    Family(model_type="ministral", windows="by_type"),
    Family(model_type="ministral3", attention=AttentionNames(position_scale=True), windows="all"),
    Family(model_type="qwen2", windows="by_type"),
    Family(model_type="qwen3", attention=_HEAD_NORMS, windows="by_type"),
    Family(
        model_type="gemma2",
        scaling=ScalingNames(cap="final_logit_softcapping"),
        block=_SANDWICH,
        attention=AttentionNames(soft_cap=True),
        windows="by_type",
        faults=(_bidirectional,),
    ),
    Family(
        model_type="gemma3_text",
        scaling=ScalingNames(cap="final_logit_softcapping"),
        block=_SANDWICH,
        attention=_HEAD_NORMS,
        windows="by_type",
        rotary="by_type",
        faults=(_bidirectional,),
    ),
    Family(
        model_type="phi3",
        block=BlockNames(gated=False),
        attention=AttentionNames(fused=True),
        windows="all",
    ),
    Family(
        model_type="olmo2",
        block=_POST,
        attention=AttentionNames(norms="whole"),
    ),
    Family(
        model_type="granite",
        scaling=ScalingNames(embeddings="embedding_multiplier", divisor="logits_scaling"),
        block=BlockNames(residual="residual_multiplier"),
    ),
    Family(model_type="smollm3", windows="by_type", rotary="some"),
    Family(model_type="mixtral", block=_EXPERTS, windows="all"),
    Family(model_type="qwen3_moe", block=LLAMA, attention=_HEAD_NORMS, windows="all"),
    replace(_MAMBA, model_type="mamba2", layer=_all("mamba2")),
    _MAMBA,
    replace(_MAMBA, model_type="falcon_mamba"),
    Family(
        model_type="bamba",
        modules=ModuleNames(norm="final_layernorm"),
        block=_PRE_FF,
        layer=_by_type("mamba2"),
    ),
    Family(
        model_type="granitemoehybrid",
        scaling=ScalingNames(embeddings="embedding_multiplier", divisor="logits_scaling"),
        block=BlockNames(
            feed_forward=("block_sparse_moe", "shared_mlp"),
            gated=False,
            residual="residual_multiplier",
        ),
        layer=_by_type("mamba2"),
    ),
    Family(
        model_type="falcon_h1",
        modules=ModuleNames(norm="final_layernorm"),
        scaling=ScalingNames(embeddings="embedding_multiplier", logits="lm_head_multiplier"),
        block=replace(_PRE_FF, gated=False),
        attention=AttentionNames(key_multiplier=True),
        layer=_all("attention+mamba2"),
    ),
    Family(
        model_type="nemotron_h",
        modules=ModuleNames(embedding="embeddings", norm="norm_f", rotary=""),
        scaling=_FLOAT32,
        block=STATE_SPACE,
        attention=AttentionNames(module="mixer"),
        mixer="mixer",
        alone=BlockNames(norm="", ff_norm="norm", feed_forward=("mixer",), gated=False),
        rotary="none",
        layer=_by_type("mamba2"),
        faults=(_latent_experts,),
    ),
    Family(
        model_type="jamba",
        modules=ModuleNames(norm="final_layernorm", rotary=""),
        block=_PRE_FF,
        rotary="none",
        layer=_by_type("mamba"),
    ),
    Family(
        model_type="zamba2",
        modules=ModuleNames(norm="final_layernorm"),
        block=BlockNames(ff_norm="", feed_forward=(), gated=False),
        layer=_by_type("mamba2"),
        faults=(_long_context,),
    ),
)

FAMILIES: Mapping[str, Family] = {row.model_type: row for row in _ROWS}
"""The table, by ``model_type``."""

WRAPPERS: Mapping[str, tuple[str, ...]] = {
    "gemma3": ("gemma3_text",),
    "mistral3": ("mistral", "ministral3"),
}
"""Multimodal models by ``model_type``, with the text decoders that run inside each of them."""


class TextDecoder(NamedTuple):
    """What runs of a checkpoint.

    Attributes:
        family: its row; inside a wrapper, with the places of the wrapper's modules.
        config: its configuration.
    """

    family: Family
    config: Any


def text_decoder(config: Any) -> TextDecoder:
    """The text decoder of a supported configuration, which is the whole model or inside a wrapper.

    Args:
        config: transformers' configuration of the whole checkpoint.
    """
    text = text_config(config)
    row = FAMILIES[text.model_type]
    return TextDecoder(row if text is config else _wrapped(row), text)


def _wrapped(row: Family) -> Family:
    """A row inside a wrapper, which scales no logits: its head is the projection alone."""
    return replace(
        row,
        modules=replace(row.modules, base=f"{row.modules.base}.language_model"),
        scaling=ScalingNames(embeddings=row.scaling.embeddings),
    )
