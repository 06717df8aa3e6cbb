"""What published checkpoints of a family set that the family's tiny model in the table does not."""

from __future__ import annotations

from typing import Any

import pytest

from dynamax_lm.decoders.check import check_layers
from dynamax_lm.decoders.checkpoint import FAMILY, check_config
from dynamax_lm.decoders.family_stack import FamilyStack
from tests.decoders.test_families import ROWS, billed_as_counted, same_as_transformers
from tests.decoders.tiny_families import tiny_model

pytestmark = pytest.mark.usefixtures("no_gradients")

_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
}
_WINDOWS_ABOVE = {"layer_types": None, "use_sliding_window": True, "sliding_window": 5}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3 angles, tied": ("llama", {"rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "linear angles, older keys": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "yarn, no window": ("mistral", {"rope_parameters": _YARN, "sliding_window": None}),
    "windows above a layer": ("qwen2", {**_WINDOWS_ABOVE, "max_window_layers": 2}),
    "wide heads with biases": ("qwen3", {"head_dim": 24, "attention_bias": True}),
    "some dense layers": (
        "qwen3_moe",
        {"decoder_sparse_step": 1, "mlp_only_layers": [0, 2], "norm_topk_prob": True},
    ),
    "angles of two types, older keys": (
        "gemma3_text",
        {
            "layer_types": None,
            "sliding_window_pattern": 2,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 100.0,
        },
    ),
    "no soft caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "windows where no angles": (
        "smollm3",
        {"no_rope_layers": [1, 0, 0, 1], "use_sliding_window": True, "sliding_window": 5},
    ),
    "a window that is off": (
        "smollm3",
        {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 5},
    ),
    "no convolution bias": ("mamba", {"use_conv_bias": False, "use_bias": True}),
    "a large epsilon": ("falcon_mamba", {"mixer_rms_eps": 0.3}),
    "a step limit": ("mamba2", {"n_groups": 4, "time_step_limit": (0.0, 0.7)}),
    "biases everywhere": (
        "bamba",
        {"mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True},
    ),
    "dense, without angles": (
        "granitemoehybrid",
        {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "position_embedding_type": "nope",
            "mamba_n_groups": 1,
        },
    ),
    "attention alone": (
        "granitemoehybrid",
        {"layer_types": ["attention"] * 4, "num_local_experts": 0, "num_experts_per_tok": 0},
    ),
    "no norm in the mixer": (
        "falcon_h1",
        {"mamba_rms_norm": False, "mamba_d_ssm": 48, "mamba_n_heads": 3, "mamba_n_groups": 1},
    ),
    "the norm after the gate": (
        "falcon_h1",
        {"mamba_norm_before_gate": False, "projectors_bias": True, "mamba_proj_bias": True},
    ),
    "a pattern of letters": (
        "nemotron_h",
        {"layers_block_type": None, "hybrid_override_pattern": "M-M*", "mlp_bias": True},
    ),
    "groups of experts": (
        "nemotron_h",
        {
            "layers_block_type": ["moe", "linear_attention", "full_attention", "moe"],
            "n_routed_experts": 6,
            "n_group": 3,
            "topk_group": 2,
            "norm_topk_prob": False,
            "routed_scaling_factor": 2.5,
        },
    ),
    "one block without adapters": (
        "zamba2",
        {"num_mem_blocks": 1, "use_shared_attention_adapter": False, "use_mem_rope": False},
    ),
    "three blocks with biases": (
        "zamba2",
        {
            "layers_block_type": ["mamba", "hybrid", "hybrid", "hybrid"],
            "num_mem_blocks": 3,
            "add_bias_linear": True,
        },
    ),
    "no experts": ("jamba", {"num_experts": 1, "num_experts_per_tok": 1}),
    "experts in every layer": (
        "jamba",
        {
            "attn_layer_period": 3,
            "attn_layer_offset": 2,
            "expert_layer_period": 1,
            "expert_layer_offset": 0,
        },
    ),
}
"""By what sets it apart: a family, and what its configuration has in place of the table's."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_transformers_forward_and_billed_as_counted(variant: str) -> None:
    family, options = VARIANTS[variant]
    model = tiny_model(family, **options)
    check_config(model.config, FAMILY)
    check_layers(model, FamilyStack(model))
    same_as_transformers(model, ROWS[:3])
    billed_as_counted(family, **options)
