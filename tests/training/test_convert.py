"""A hybrid that starts from a Transformer computes what the parts that it took over computed."""

import pytest
import torch
from transformers import BambaForCausalLM, MistralForCausalLM

from training.tiny.convert import rotary_order, take_over
from training.tiny.models import build

WIDTH = 32


@pytest.fixture(scope="module")
def models() -> tuple[BambaForCausalLM, MistralForCausalLM]:
    torch.manual_seed(0)
    hybrid, source = build("hybrid").eval(), build("mistral").eval()
    with torch.no_grad():
        for name, weight in source.named_parameters():
            if name.endswith("norm.weight"):
                weight.add_(0.1 * torch.randn_like(weight))
    take_over(hybrid, source)
    return hybrid, source


@torch.inference_mode()
def test_attention_keeps_the_angles_of_every_second_pair(
    models: tuple[BambaForCausalLM, MistralForCausalLM],
) -> None:
    """With nothing in the other pairs of the queries, it is the Transformer's own attention."""
    hybrid, source = models
    ours, theirs = hybrid.model.layers[3].self_attn, source.model.layers[3].self_attn
    rotated = rotary_order(WIDTH)[: WIDTH // 2]
    kept = torch.zeros(WIDTH, dtype=torch.bool).index_fill(0, rotated, True)
    theirs.q_proj.weight.view(-1, WIDTH, 128)[:, ~kept] = 0
    ours.q_proj.weight.view(-1, WIDTH, 128)[:, WIDTH // 2 :] = 0
    hidden, places = torch.randn(2, 40, 128), torch.arange(40)[None]
    outputs = [
        attention(
            hidden,
            position_embeddings=model.model.rotary_emb(hidden, places),
            attention_mask=None,
        )[0]
        for attention, model in ((ours, hybrid), (theirs, source))
    ]
    torch.testing.assert_close(*outputs)


@torch.inference_mode()
def test_a_new_mixer_adds_nothing_and_its_mlp_is_the_transformers(
    models: tuple[BambaForCausalLM, MistralForCausalLM],
) -> None:
    hybrid, source = models
    ours, theirs = hybrid.model.layers[2], source.model.layers[2]
    hidden = torch.randn(2, 40, 128)
    expected = hidden + theirs.mlp(theirs.post_attention_layernorm(hidden))
    torch.testing.assert_close(ours(hidden)[0], expected)
