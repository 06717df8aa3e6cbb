"""Mamba-2's gated norm works within each group, as Codestral was trained.

transformers before 5.23 normalised over all groups at once, which is why the package needs 5.23:
the decoder calls transformers' module, so that comparing the two would not show it.
"""

from __future__ import annotations

import pytest
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM

from dynamax_lm.decoders.mamba2 import Mamba2Layer, Mamba2Stack


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_gated_norm_is_within_each_group(groups: int) -> None:
    """Against the closed form, on channels of very different size in each group."""
    torch.manual_seed(groups)
    config = Mamba2Config(
        num_heads=8,
        head_dim=8,
        hidden_size=32,
        n_groups=groups,
        state_size=4,
        num_hidden_layers=1,
        vocab_size=16,
    )
    model = Mamba2ForCausalLM(config).eval()
    norm = model.backbone.layers[0].mixer.norm
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    size = torch.logspace(-1, 1, groups).repeat_interleave(64 // groups)
    hidden, gate = torch.randn(2, 3, 5, 64)  # of two rows
    gated = hidden * size * torch.nn.functional.silu(gate)
    parts = gated.unflatten(-1, (groups, -1))
    scale = (parts.square().mean(-1, keepdim=True) + config.layer_norm_epsilon).rsqrt()
    expected = (parts * scale).flatten(-2) * norm.weight
    layer = Mamba2Stack(model).layers[0]
    assert isinstance(layer, Mamba2Layer)
    with torch.inference_mode():
        torch.testing.assert_close(layer._gated(hidden * size, gate), expected)
