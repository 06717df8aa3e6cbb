"""The table of families: by ``model_type``, how transformers' decoder of that type is built.

A row describes a block completely, by what it has; the adapters read the description, and
``decoders.check`` compares them with transformers' own layers when a checkpoint loads. To support a
further family of known kinds of layers, add its row; the tests run over the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamax_lm.decoders.description import (
    LLAMA,
    AttentionNames,
    BlockNames,
    Family,
    ScalingNames,
)


def _stray_window(config: Any) -> str | None:
    """Transformers attends to all tokens here, and yet its cache drops those before the window."""
    if getattr(config, "sliding_window", None) is None:
        return None
    return f"sliding_window={config.sliding_window}, which transformers ignores for this model_type"


def _mixed_windows(config: Any) -> str | None:
    """Transformers' Mistral has one window in all layers; Ministral has mixed ones."""
    if getattr(config, "layer_types", None) and len(set(config.layer_types)) > 1:
        return "mixed layer_types, which transformers ignores for this model_type"
    return None


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

_ROWS = (
    Family(model_type="llama", faults=(_stray_window,)),
    Family(model_type="mistral", windows="all", faults=(_mixed_windows,)),
    Family(model_type="ministral", windows="by_type"),
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
        faults=(_stray_window,),
    ),
    Family(
        model_type="granite",
        scaling=ScalingNames(embeddings="embedding_multiplier", divisor="logits_scaling"),
        block=BlockNames(residual="residual_multiplier"),
        faults=(_stray_window,),
    ),
    Family(model_type="smollm3", windows="by_type", rotary="some"),
    Family(model_type="mixtral", block=_EXPERTS, windows="all"),
    Family(model_type="qwen3_moe", block=LLAMA, attention=_HEAD_NORMS, windows="all"),
)

FAMILIES: Mapping[str, Family] = {row.model_type: row for row in _ROWS}
"""The table, by ``model_type``."""
