"""Losses and gradients that are no number, full disks: one line, and the checkpoint remains."""

import pytest
import torch
from safetensors import SafetensorError

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.train import __main__ as entry
from dynamax_lm.heads.train import command as module
from dynamax_lm.heads.train import finish as ending
from dynamax_lm.heads.train.objective import Objective
from dynamax_lm.heads.train.trainer import Trainer
from tests.heads.train.training_runs import options, remains


def test_a_loss_that_is_no_number_stops_the_run_and_the_checkpoint_remains(
    checkpoints, data, tmp_path, monkeypatch, stop_after
):
    def spoil():
        observe = module.Backbone.observe

        def broken(self, batch, exits):
            seen = observe(self, batch, exits)
            return type(seen)(seen.hidden, seen.real, seen.full_logits * float("nan"))

        monkeypatch.setattr(module.Backbone, "observe", broken)

    stop_after(2, spoil)
    extra = ("--translator_steps", 6)
    with pytest.raises(SettingError, match=r"loss is nan at step 3.*step 2 remains"):
        module.train(options(checkpoints, data, tmp_path / "out", *extra))
    assert remains(tmp_path / "out") == 2


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    checkpoints, data, tmp_path, monkeypatch, stop_after
):
    def spoil():
        forward = Objective.forward

        def broken(self, *arguments):
            losses = forward(self, *arguments)
            zero = sum(one.sum() for one in self.heads.parameters()) * 0.0
            return losses._replace(
                total=losses.total + zero.square().sqrt()
            )  # finite, not its slope

        monkeypatch.setattr(Objective, "forward", broken)

    stop_after(3, spoil)
    with pytest.raises(SettingError, match=r"gradient's norm is nan at step 4.*step 2 remains"):
        module.train(options(checkpoints, data, tmp_path / "out"))
    assert remains(tmp_path / "out") == 2


def test_a_full_disk_stops_the_run_and_the_checkpoint_remains(
    checkpoints, data, tmp_path, monkeypatch, stop_after
):
    def fill():
        def full(state, path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)

    stop_after(3, fill)
    with pytest.raises(SettingError, match=r"No space left on device.*step 2 remains"):
        module.train(options(checkpoints, data, tmp_path / "out"))
    assert remains(tmp_path / "out") == 2
    assert not list((tmp_path / "out").glob(".*"))


def test_a_full_disk_under_the_cache_is_one_line(checkpoints, data, tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("dynamax_lm.heads.train.hidden_state_cache.save_file", full)
    with pytest.raises(SettingError, match=r"No space left on device"):
        module.train(options(checkpoints, data, tmp_path / "out", "--cache"))
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failure_after_the_last_step_loses_no_step(
    checkpoints, data, tmp_path, monkeypatch, capsys, error
):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ending, "draw_loss", fail)
        arguments = options(checkpoints, data, tmp_path / "out", "--save_every", 4)
        with pytest.raises((SettingError, SystemExit)) as raised:
            entry.main(arguments)
    said = str(raised.value) + capsys.readouterr().err
    assert "the same command" in said
    assert remains(tmp_path / "out") == 6
    monkeypatch.setattr(Trainer, "_one_step", fail)
    entry.main(arguments)
    ExitHeads.from_pretrained(tmp_path / "out")
