"""Head training from end to end: every kind of head, seeds, progress and the cache."""

import pytest
import torch

from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.train import command as module
from dynamax_lm.heads.train.trainer import CHECKPOINT, LOG, read_log
from tests.heads.train.training_runs import digest, options


@pytest.mark.parametrize(
    ("model", "head", "translator"),
    [
        ("dynamax-mistral", "mamba", "low_rank"),
        ("dynamax-mamba", "mamba", "low_rank"),
        ("dynamax-mistral", "ffn", "affine"),
        ("dynamax-mamba", "mamba_depth", "identity"),
        ("dynamax-mistral", "linear", "identity"),
        ("dynamax-mistral", "none", "affine"),
    ],
)
def test_every_kind_trains_and_leaves_the_backbone_bit_identical(
    checkpoints, data, tmp_path, monkeypatch, model, head, translator
):
    seen = {}

    def load(*args):
        backbone = load_before(*args)
        seen["backbone"], seen["digest"] = backbone, digest(backbone.model)
        return backbone

    load_before = module.load_backbone
    monkeypatch.setattr(module, "load_backbone", load)
    out = tmp_path / "heads"
    extra = ("--head", head, "--translator", translator)
    trained = module.train(options(checkpoints, data, out, *extra, model=model))
    assert digest(seen["backbone"].model) == seen["digest"]
    assert not any(p.requires_grad for p in seen["backbone"].model.parameters())
    loaded = ExitHeads.from_pretrained(out)
    assert digest(loaded) == digest(trained)
    torch.manual_seed(0)
    assert digest(ExitHeads(loaded.config)) != digest(loaded)
    loaded.check_backbone(seen["backbone"].model.config, seen["backbone"].model.lm_head.weight)
    assert set(loaded.config.calibration) == (
        set() if head == "none" else {str(layer) for layer in loaded.config.exit_layers}
    )
    assert (out / "loss.png").stat().st_size
    assert len(read_log(out / LOG)) == 6
    assert not (out / CHECKPOINT).exists()
    card = (out / "README.md").read_text()
    assert f"--head {head}" in card or head == "mamba"
    assert ("## Reliability" in card) == (head != "none")


def test_the_same_seed_gives_the_same_heads_and_another_seed_others(checkpoints, data, tmp_path):
    made = [
        module.train(options(checkpoints, data, tmp_path / name, "--seed", seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert digest(made[0]) == digest(made[1])
    assert digest(made[0]) != digest(made[2])


def test_progress_on_held_out_text_ends_at_its_end(checkpoints, data, tmp_path, capsys):
    """Here there is less such text than --calibration_tokens."""
    more = ("--calibration_tokens", 1_000_000, "--max_steps", 2)
    module.train(options(checkpoints, data, tmp_path / "out", *more))
    shown = capsys.readouterr().err
    assert "calibrating: 100%" in shown
    assert "evaluating on held-out text: 100%" in shown


def test_a_cache_changes_nothing_and_is_gone_afterwards(
    checkpoints, data, tmp_path, monkeypatch, capsys
):
    whole = module.train(options(checkpoints, data, tmp_path / "whole", "--max_steps", 30))
    read, windows = module.Backbone.read, []

    def counted(self, batch, exits):
        windows.extend(batch.windows())
        return read(self, batch, exits)

    monkeypatch.setattr(module.Backbone, "read", counted)
    monkeypatch.setattr(module, "expected_seconds", lambda *given, **options: {"trial": 0.0})
    assert "more steps" in (before := capsys.readouterr().err)
    assert "less once" not in before
    extra = ("--max_steps", 30, "--cache")
    cached = module.train(options(checkpoints, data, tmp_path / "cached", *extra))
    assert "less once --cache holds all text" in capsys.readouterr().err
    assert len(windows) == len(set(windows))
    for name, tensor in cached.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], atol=1e-3, rtol=1e-2)
    assert not (tmp_path / "cached" / "observations").exists()
