"""The three architectures: transformers' own classes, small, every layer's output accessible."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import (
    BambaConfig,
    BambaForCausalLM,
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
MISTRAL_LAYERS, MAMBA_LAYERS, HYBRID_LAYERS = 16, 24, 16
NAMES = ("mistral", "mamba", "hybrid")


def build(name: str) -> PreTrainedModel:
    """A freshly initialised model.

    Args:
        name: `mistral`, `mamba`, or `hybrid` of Mamba-2 and attention layers in turn.
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
    if name == "hybrid":
        return _hybrid(tokens)
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


def _hybrid(tokens: dict[str, int]) -> PreTrainedModel:
    """Bamba's shape, whose Mamba-2 layers start from the weights that `mamba` starts from.

    Bamba's own initialisation has one step size for all heads, with which the state decays within a
    few tokens.
    """
    config = BambaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN,
        intermediate_size=384,
        num_hidden_layers=HYBRID_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_indices=list(range(1, HYBRID_LAYERS, 2)),
        mamba_expand=2,
        mamba_d_head=32,
        mamba_n_heads=8,
        mamba_d_state=32,
        mamba_n_groups=1,
        mamba_d_conv=4,
        mamba_chunk_size=64,
        max_position_embeddings=MAX_LENGTH,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        **tokens,
    )
    model = BambaForCausalLM(config)
    for block, source in zip(model.model.layers, build("mamba").backbone.layers, strict=False):
        if block.block_type == "linear_attention":
            block.mamba.load_state_dict(source.mixer.state_dict())
    return model


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
    with _blockwise(model):
        hidden = model.model.embed_tokens(ids)
        positions = torch.arange(ids.shape[1])[None]
        rotary = model.model.rotary_emb(hidden, positions)
        for number, block in enumerate(model.model.layers, start=1):
            if isinstance(model, BambaForCausalLM):
                hidden = hidden + _mixed(block, block.input_layernorm(hidden), rotary)
                hidden = hidden + block.feed_forward(block.pre_ff_layernorm(hidden))
            else:
                hidden = block(
                    hidden, attention_mask=None, position_ids=positions, position_embeddings=rotary
                )
            if number in layers:
                wanted[number] = hidden
    return wanted


@contextmanager
def _blockwise(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, attention is the one of `attention.py`."""
    usual = model.config._attn_implementation
    model.config._attn_implementation = attention.NAME
    try:
        yield
    finally:
        model.config._attn_implementation = usual


def _mixed(block: nn.Module, normed: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """The output of a hybrid block's Mamba-2 mixer or attention."""
    if block.block_type == "linear_attention":
        return mixer_forward(block.mamba, normed)
    return block.self_attn(normed, position_embeddings=rotary, attention_mask=None)[0]


def logits_at(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The shared final norm and unembedding, at any layer."""
    norms = {Mamba2ForCausalLM: "norm_f", BambaForCausalLM: "final_layernorm"}
    norm = getattr(model.base_model, norms.get(type(model), "norm"))
    return model.lm_head(norm(hidden))
