"""A hybrid that starts from a trained Transformer (after The Mamba in the Llama, arXiv 2408.15237).

Every second layer keeps its attention; the others get a new Mamba-2 mixer in its place, which adds
nothing at first. Embedding, norms and MLPs are taken over.
"""

import torch
from torch import Tensor
from transformers import BambaForCausalLM, MistralForCausalLM


def rotary_order(width: int) -> Tensor:
    """Which of Mistral's dimensions of a head goes to each of Bamba's.

    Mistral rotates the pairs (i, i + width/2) by frequencies that fall with i; Bamba rotates the
    first half of the dimensions alone, the pairs (j, j + width/4), by the frequency of i = 2j. So
    the even pairs come first and keep their angles, and the odd ones are not rotated.

    Args:
        width: Of a head, a multiple of 4.
    """
    half = width // 2
    even, odd = torch.arange(0, half, 2), torch.arange(1, half, 2)
    return torch.cat([even, even + half, odd, odd + half])


@torch.no_grad()
def take_over(hybrid: BambaForCausalLM, source: MistralForCausalLM) -> None:
    """Replaces the hybrid's weights by those of a Transformer of its depth and widths.

    Args:
        hybrid: Its mixers keep their weights but for the last projection, which becomes 0.
        source: The trained model.
    """
    ours, theirs = hybrid.model, source.model
    ours.embed_tokens.load_state_dict(theirs.embed_tokens.state_dict())
    ours.final_layernorm.load_state_dict(theirs.norm.state_dict())
    config = source.config
    order = rotary_order(config.head_dim)
    for new, old in zip(ours.layers, theirs.layers, strict=True):
        new.input_layernorm.load_state_dict(old.input_layernorm.state_dict())
        new.pre_ff_layernorm.load_state_dict(old.post_attention_layernorm.state_dict())
        new.feed_forward.load_state_dict(old.mlp.state_dict())
        if new.block_type == "linear_attention":
            new.mamba.out_proj.weight.zero_()
            continue
        new.self_attn.load_state_dict(old.self_attn.state_dict())
        for projection in (new.self_attn.q_proj, new.self_attn.k_proj):
            rows = projection.weight.view(-1, config.head_dim, config.hidden_size)
            projection.weight.copy_(rows[:, order].flatten(0, 1))
