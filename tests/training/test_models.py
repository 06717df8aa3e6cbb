"""The training forward is transformers' own, and the first exit sees what the loss says."""

import pytest
import torch

from training.tiny.models import NAMES, build, exit_layers, hidden_states, logits_at
from training.tiny.ssd import mixer_forward, ssd


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_equal_transformers(name: str) -> None:
    torch.manual_seed(0)
    model = build(name).eval()
    depth = model.config.num_hidden_layers
    ids = torch.randint(0, model.config.vocab_size, (2, 96))
    seen: list[torch.Tensor] = []
    blocks = model.backbone.layers if name == "mamba" else model.model.layers
    for block in blocks:
        block.register_forward_hook(
            lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    with torch.inference_mode():
        expected = model(ids)
        outputs = list(seen)
        states = hidden_states(model, ids, [*exit_layers(depth), depth])
        logits = logits_at(model, states[depth])
    torch.testing.assert_close(logits, expected.logits, atol=2e-5, rtol=1e-4)
    for layer in exit_layers(depth):
        torch.testing.assert_close(states[layer], outputs[layer - 1], atol=2e-5, rtol=1e-4)


def test_ssd_equals_the_recurrence() -> None:
    torch.manual_seed(0)
    batch, time, heads, width, state = 2, 64, 3, 4, 5
    x = torch.randn(batch, time, heads, width, dtype=torch.float64)
    dt = torch.rand(batch, time, heads, dtype=torch.float64)
    a = -torch.arange(1, heads + 1, dtype=torch.float64)
    b, c = torch.randn(2, batch, time, state, dtype=torch.float64)
    memory = torch.zeros(batch, heads, width, state, dtype=torch.float64)
    expected = torch.empty_like(x)
    for t in range(time):
        memory = memory * (dt[:, t] * a).exp()[..., None, None]
        memory = memory + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, None, None]
        expected[:, t] = (memory * c[:, t, None, None]).sum(-1)
    for chunk in (8, 16, 64):
        torch.testing.assert_close(ssd(x, dt, a, b, c, chunk), expected)


@pytest.mark.parametrize("name", ["mamba", "hybrid"])
def test_mixer_equals_transformers_with_trained_like_weights(name: str) -> None:
    torch.manual_seed(0)
    model = build(name).eval()
    mixer = model.backbone.layers[3].mixer if name == "mamba" else model.model.layers[2].mamba
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        hidden = torch.randn(2, 128, 128)
        torch.testing.assert_close(
            mixer_forward(mixer, hidden), mixer(hidden), atol=1e-4, rtol=1e-4
        )
