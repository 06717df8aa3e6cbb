"""Head training reads the hidden states of transformers' own forward pass."""

import pytest
import torch

from dynamax_lm.heads.train.backbone import load_backbone
from dynamax_lm.heads.train.windows import Batch, Window
from tests.checkpoints import save_checkpoint

EXITS = (1, 2, 3)


@torch.no_grad()
def forward(model, ids):
    """Outputs of every layer, and logits, by transformers."""
    states = []

    def keep(module, inputs, output):
        del module, inputs
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in model.base_model.layers]
    logits = model(torch.tensor([ids])).logits
    for hook in hooks:
        hook.remove()
    return states, logits


@pytest.mark.parametrize(
    ("model", "kind"), [("dynamax-mistral", "mistral"), ("dynamax-mamba", "mamba2")]
)
def test_states_and_logits_are_transformers_own(model, kind, tmp_path):
    folder = save_checkpoint(tmp_path, kind)
    backbone = load_backbone(model, f"pretrained={folder},dtype=float32", "cpu")
    draw = torch.Generator().manual_seed(0)
    windows = [
        Window(tuple(torch.randint(3, 259, (length,), generator=draw).tolist()), start)
        for length, start in ((40, 11), (7, 6), (23, 0))
    ]
    seen = backbone.observe(Batch.of(windows), EXITS)
    logits = iter(seen.full_logits.split([len(ids) - start for ids, start in windows]))
    for row, (ids, start) in enumerate(windows):
        states, own = forward(backbone.model, ids)
        torch.testing.assert_close(next(logits), own[0, start:], atol=1e-4, rtol=1e-4)
        for layer, hidden in zip(EXITS, seen.hidden, strict=True):
            expected = states[layer - 1][0, start:]
            torch.testing.assert_close(hidden[row, : len(expected)], expected, atol=1e-4, rtol=1e-4)
        assert seen.real[row].sum() == len(ids) - start
