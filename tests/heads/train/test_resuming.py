"""A run that was cut goes on as one that was not, and only with the same contents."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.train import __main__ as entry
from dynamax_lm.heads.train import command as module
from dynamax_lm.heads.train.seal import sealed, unsealed
from dynamax_lm.heads.train.stopping import Stopped
from dynamax_lm.heads.train.trainer import CHECKPOINT, LOG, read_log
from tests.checkpoints import save_checkpoint
from tests.heads.train.training_runs import digest, options, remains


@pytest.mark.parametrize("end", ["signal", "crash"])
def test_a_run_that_was_cut_ends_as_one_that_was_not(checkpoints, data, tmp_path, stop_after, end):
    whole = module.train(options(checkpoints, data, tmp_path / "whole"))
    act, error = {
        "signal": (lambda: os.kill(os.getpid(), signal.SIGTERM), Stopped),
        "crash": (lambda: 1 / 0, ZeroDivisionError),
    }[end]
    mend = stop_after(3, act)
    arguments = options(checkpoints, data, tmp_path / "cut")
    with pytest.raises(error) as raised:
        module.train(arguments)
    if end == "signal":
        assert "SIGTERM after step 3" in str(raised.value)
    mend()
    assert digest(module.train(arguments)) == digest(whole)
    logs = [read_log(tmp_path / name / LOG) for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config == json.loads((tmp_path / "whole" / "config.json").read_text())


@pytest.mark.parametrize("cut_at", [3, 5])
def test_a_cut_run_logs_what_a_whole_one_does(
    checkpoints, data, tmp_path, stop_after, cut_at, capsys
):
    """Each row is the mean over all its steps, those before the cut among them."""
    more = ("--log_every", 4, "--max_steps", 10)
    module.train(options(checkpoints, data, tmp_path / "whole", *more))
    assert "Training heads for 2 more steps: under a minute" in capsys.readouterr().err
    mend = stop_after(cut_at, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        module.train(options(checkpoints, data, tmp_path / "cut", *more))
    mend()
    module.train(options(checkpoints, data, tmp_path / "cut", *more))
    assert read_log(tmp_path / "cut" / LOG) == read_log(tmp_path / "whole" / LOG)


@pytest.mark.parametrize("changed", ["data", "checkpoint", "version"])
def test_a_run_does_not_go_on_with_other_contents(tmp_path, data, stop_after, monkeypatch, changed):
    """The same command, but its files are others by now."""
    model = "dynamax-mistral"
    checkpoint = save_checkpoint(tmp_path / "checkpoint", "mistral")
    text = tmp_path / "data.jsonl"
    text.write_text(Path(data).read_text())
    arguments = options({model: checkpoint}, text, tmp_path / "out")
    mend = stop_after(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        module.train(arguments)
    mend()
    if changed == "data":
        text.write_text(text.read_text().replace("river", "brook"))
    elif changed == "checkpoint":
        save_checkpoint(checkpoint, "mistral", seed=1)
    else:
        monkeypatch.setattr(module, "__version__", "0.0.0")
    with pytest.raises(SettingError, match=f"begun with .*{changed}.*give the same"):
        module.train(arguments)
    assert remains(tmp_path / "out") == 3


def test_a_run_does_not_go_on_under_other_settings(checkpoints, data, tmp_path, stop_after):
    mend = stop_after(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped, match="SIGINT"):
        module.train(options(checkpoints, data, tmp_path / "out"))
    mend()
    with pytest.raises(SettingError, match=r"begun with lr=0.002, and this one has lr=0.1"):
        module.train(options(checkpoints, data, tmp_path / "out", "--lr", 0.1))
    (tmp_path / "out" / CHECKPOINT).write_bytes(b"cut")
    with pytest.raises(SettingError, match="no checkpoint of a run"):
        module.train(options(checkpoints, data, tmp_path / "out"))


def test_hidden_states_of_another_run_are_not_read(checkpoints, data, tmp_path, stop_after):
    """Cut before the first checkpoint, and gone on with in the same folder at other exits."""
    more = ("--save_every", 50, "--cache", "--exit_layers")
    whole = module.train(options(checkpoints, data, tmp_path / "whole", *more, "2+3"))
    mend = stop_after(4, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.train(options(checkpoints, data, tmp_path / "cut", *more, "1+2"))
    mend()
    assert list((tmp_path / "cut").rglob("*.safetensors"))
    assert digest(module.train(options(checkpoints, data, tmp_path / "cut", *more, "2+3"))) == (
        digest(whole)
    )


def test_a_checkpoint_with_other_contents_is_one_line(checkpoints, data, tmp_path, stop_after):
    """Each value is left out, or of another kind; weights have another shape."""
    mend = stop_after(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    arguments = options(checkpoints, data, tmp_path)
    with pytest.raises(Stopped):
        module.train(arguments)
    mend()
    path = tmp_path / CHECKPOINT
    state = unsealed(torch.load(path, weights_only=True))
    shorter = {name: tensor[..., :1] for name, tensor in state["heads"].items()}
    changed = [state | {"heads": shorter}]
    for name in set(state) - {"settings"}:
        changed.append({other: value for other, value in state.items() if other != name})
        changed += [state | {name: value} for value in (None, "x", [[]])]
    heavier = {name: tensor + 1 for name, tensor in state["heads"].items()}
    other = sealed(state) | {"heads": heavier}  # of the right kind and shape
    for one in [*map(sealed, [*changed, {"settings": 7}]), [state], state, other]:
        torch.save(one, path)
        with pytest.raises(SettingError, match="no checkpoint of a run") as caught:
            module.train(arguments)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_command_line_ends_a_stopped_run_with_the_signals_status(
    checkpoints, data, tmp_path, stop_after, capsys
):
    stop_after(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as raised:
        entry.main(options(checkpoints, data, tmp_path / "out"))
    assert raised.value.code == 128 + signal.SIGTERM
    assert "the same command goes on" in capsys.readouterr().err
