"""The two architectures: transformers' own classes, small, with every layer's output at hand."""

import torch
from torch import Tensor
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from training.tiny import attention
from training.tiny.ssd import mixer_forward
from training.tiny.tokenizer import MAX_LENGTH, VOCAB_SIZE

HIDDEN = 128
MISTRAL_LAYERS, MAMBA_LAYERS = 16, 24
NAMES = ("mistral", "mamba")


def build(name: str) -> PreTrainedModel:
    """A freshly initialised model.

    Args:
        name: `mistral` or `mamba`.
    """
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    if name == "mistral":
        return MistralForCausalLM(
            MistralConfig(
                vocab_size=VOCAB_SIZE,
                hidden_size=HIDDEN,
                intermediate_size=384,
                num_hidden_layers=MISTRAL_LAYERS,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=MAX_LENGTH,
                sliding_window=None,
                tie_word_embeddings=True,
                **tokens,
            )
        )
    if name != "mamba":
        raise ValueError(f"model is {name!r}; it can be one of {', '.join(NAMES)}")
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=HIDDEN,
            num_hidden_layers=MAMBA_LAYERS,
            expand=2,
            head_dim=32,
            num_heads=8,
            state_size=32,
            n_groups=1,
            conv_kernel=4,
            chunk_size=64,
            initializer_range=0.02,
            rescale_prenorm_residual=True,
            residual_in_fp32=True,
            tie_word_embeddings=True,
            **tokens,
        )
    )


def exit_layers(layers: int) -> list[int]:
    """The package's default exits: four, spread over the latter half."""
    return [layers * eighths // 8 for eighths in (4, 5, 6, 7)]


def hidden_states(model: PreTrainedModel, ids: Tensor, layers: list[int]) -> dict[int, Tensor]:
    """The residual stream after the given numbers of layers, before the final norm."""
    wanted = {}
    if isinstance(model, Mamba2ForCausalLM):
        hidden = model.backbone.embeddings(ids)
        for number, block in enumerate(model.backbone.layers, start=1):
            hidden = hidden + mixer_forward(block.mixer, block.norm(hidden))
            if number in layers:
                wanted[number] = hidden
        return wanted
    usual = model.config._attn_implementation
    model.config._attn_implementation = attention.NAME
    try:
        hidden = model.model.embed_tokens(ids)
        positions = torch.arange(ids.shape[1])[None]
        rotary = model.model.rotary_emb(hidden, positions)
        for number, block in enumerate(model.model.layers, start=1):
            hidden = block(
                hidden, attention_mask=None, position_ids=positions, position_embeddings=rotary
            )
            if number in layers:
                wanted[number] = hidden
    finally:
        model.config._attn_implementation = usual
    return wanted


def logits_at(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The shared final norm and unembedding, at any layer."""
    backbone = model.backbone if isinstance(model, Mamba2ForCausalLM) else model.model
    norm = backbone.norm_f if isinstance(model, Mamba2ForCausalLM) else backbone.norm
    return model.lm_head(norm(hidden))
