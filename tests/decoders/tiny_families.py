"""A tiny random model of every family of the table, made by transformers' own classes.

A text decoder inside a multimodal wrapper is named after both, as ``mistral3:ministral3``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig

from dynamax_lm.decoders.check import truncated
from dynamax_lm.decoders.families import FAMILIES, WRAPPERS
from dynamax_lm.decoders.loading import auto_class_of

DECODERS = [
    *FAMILIES,
    *(f"{wrapper}:{inner}" for wrapper, texts in WRAPPERS.items() for inner in texts),
]
"""All rows, alone and inside wrappers."""

VOCAB = 61
LAYERS = 4
WINDOW = 5

_SHARED: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
_MIXED: dict[str, Any] = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
}
_MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 4,
}
_OWN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": WINDOW, "head_dim": 16},
    "ministral": {**_MIXED, "head_dim": 16},
    "ministral3": {
        "sliding_window": WINDOW,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 8,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "qwen2": {"use_sliding_window": True, **_MIXED},
    "qwen3": {"use_sliding_window": True, **_MIXED, "head_dim": 16},
    "gemma2": {
        **_MIXED,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        **_MIXED,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "final_logit_softcapping": 3.0,  # which the wrapper ignores
    },
    "phi3": {"sliding_window": WINDOW, "partial_rotary_factor": 0.5},
    "olmo2": {"attention_bias": True},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "smollm3": {"no_rope_layer_interval": 2},
    "mixtral": {"num_local_experts": 4, "sliding_window": WINDOW},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "decoder_sparse_step": 2,
        "head_dim": 16,
    },
    "mamba2": {
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 8,
        "n_groups": 2,
        "chunk_size": 4,
        "residual_in_fp32": True,
    },
    "mamba": {"state_size": 8, "time_step_rank": 4, "intermediate_size": 64},
    "falcon_mamba": {
        "state_size": 8,
        "time_step_rank": 4,
        "intermediate_size": 64,
        "use_conv_bias": True,
    },
    "bamba": {**_MAMBA2, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {
        **_MAMBA2,
        "layer_types": ["linear_attention", "full_attention"] * (LAYERS // 2),
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 40,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
        "position_embedding_type": "rope",
    },
    "falcon_h1": {
        **_MAMBA2,
        "mamba_d_ssm": 64,
        "mamba_rms_norm": True,
        "embedding_multiplier": 3.0,
        "lm_head_multiplier": 0.7,
        "key_multiplier": 0.5,
        "attention_in_multiplier": 1.5,
        "attention_out_multiplier": 0.6,
        "ssm_in_multiplier": 1.3,
        "ssm_out_multiplier": 0.8,
        "ssm_multipliers": [0.5, 1.5, 0.7, 1.2, 0.9],
        "mlp_multipliers": [1.4, 0.6],
    },
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "moe", "mlp"],
        "head_dim": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "ssm_state_size": 8,
        "chunk_size": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 40,
    },
    "jamba": {
        "mamba_d_state": 8,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": 4,
        "num_experts": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "zamba2": {
        "layers_block_type": ["hybrid", "linear_attention", "hybrid", "hybrid"],
        "hidden_size": 16,  # attention reads twice as many
        "num_key_value_heads": 4,
        "n_mamba_heads": 4,
        "mamba_ngroups": 2,
        "mamba_d_state": 8,
        "chunk_size": 4,
        "num_mem_blocks": 2,
        "use_shared_attention_adapter": True,
        "adapter_rank": 3,
        "use_mem_rope": True,
        "tie_word_embeddings": True,
    },
}
"""What each family's own configuration needs to show what sets it apart."""


_VISION: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_WRAPPED: dict[str, dict[str, Any]] = {
    "gemma3": {"vision_config": _VISION, "mm_tokens_per_image": 4},
    "mistral3": {"vision_config": {**_VISION, "model_type": "pixtral", "head_dim": 4}},
}
"""What each wrapper's own configuration needs."""

_LAYERS_BY_DEFAULT = ("layer_types", "layers_block_type")
"""Settings that an option of ``None`` leaves to the configuration's own default."""


def tiny_config(decoder: str, **options: Any) -> Any:
    """A configuration of a few layers, with windows shorter than the tests' prompts."""
    wrapper, _, text = decoder.rpartition(":")
    attention = {
        name: options.pop(name) for name in ("attn_implementation",) if wrapper and name in options
    }
    settled = _SHARED | _OWN[text] | options
    unset = [name for name, one in options.items() if name in _LAYERS_BY_DEFAULT and one is None]
    config = AutoConfig.for_model(
        text, **{name: one for name, one in settled.items() if name not in unset}
    )
    if not wrapper:
        return config
    return AutoConfig.for_model(
        wrapper,
        text_config=config.to_dict(),
        tie_word_embeddings=config.tie_word_embeddings,
        **_WRAPPED[wrapper],
        **attention,
    )


def tiny_model(decoder: str, seed: int = 0, **options: Any) -> Any:
    """A random model in evaluation mode; every weight is drawn, norms and multipliers too."""
    torch.manual_seed(seed)
    config = tiny_config(decoder, **options)
    model = auto_class_of(config).from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and not name.endswith("A_log"):
                weight.normal_(std=0.25)
            elif weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
    return model


def base_of(model: Any) -> Any:
    """Transformers' text model without its vocabulary head."""
    return getattr(model.base_model, "language_model", model.base_model)


@contextmanager
def cut(model: Any, layers: int) -> Iterator[Any]:
    """Inside the block, transformers' ``model`` has its first ``layers`` layers only."""
    with truncated(base_of(model), layers):
        yield model
