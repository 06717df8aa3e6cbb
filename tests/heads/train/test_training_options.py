"""Options of head training: what is wrong with them is one line, before anything is trained."""

import subprocess
import sys

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.train import command as module
from dynamax_lm.heads.train.losses import CLASSIFIER_LOSSES
from dynamax_lm.heads.train.options import LOSSES, read_options
from dynamax_lm.heads.train.trainer import Trainer
from tests.heads.train.training_runs import options

WRONG = {
    ("--until", "x\\"): "--until=x",
    ("--head", "none", "--translator", "identity"): "nothing to train",
    ("--lr", "-1"): "--lr=-1",
    ("--label", "best"): "--label=best",
    ("--width", "17"): "--width=17",
    ("--max_steps", "0"): "--max_steps=0",
    ("--seed", "-1"): "--seed=-1",
    ("--output_path", " "): "--output_path: names no folder",
    ("--device", "banana"): "device=banana",
    ("--decay", "1.5"): "--decay=1.5",
    ("--held_out", "0"): "--held_out=0",
    ("--window", "1"): "--window=1",
    ("--window", "100000"): "fewer than one window",
    ("--translator_steps", "7"): "--translator_steps=7",
    ("--exit_layers", "9"): "beyond the last layer",
    ("--model_args", "pretrained=/nowhere"): "no such folder",
    ("--model_args", "pretrain=x"): "pretrain",
    ("--model_args", "pretrained"): "not name=value",
    ("--model_args", "pretrained=tiny,dtype=int8"): "dtype=int8",
    ("--answers", "model", "--max_gen_toks", "4"): "no record has a prompt",
    ("--answers", "model", "--max_gen_toks", "24"): "no room for a prompt",
}


@pytest.mark.parametrize(("extra", "message"), WRONG.items())
def test_what_is_wrong_is_one_line(checkpoints, data, tmp_path, extra, message):
    with pytest.raises(SettingError) as raised:
        module.train(options(checkpoints, data, tmp_path / "out", *extra))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_backbone_of_the_other_kind_is_refused(checkpoints, data, tmp_path):
    swapped = {"dynamax-mistral": checkpoints["dynamax-mamba"]}
    with pytest.raises(SettingError, match="use --model dynamax-mamba"):
        module.train(options(swapped, data, tmp_path / "out"))


def test_a_folder_that_cannot_be_written_is_one_line(checkpoints, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="cannot be written"):
        module.train(options(checkpoints, data, tmp_path / "file" / "out"))


def test_finished_heads_are_not_overwritten(checkpoints, data, tmp_path):
    module.train(options(checkpoints, data, tmp_path / "out", "--max_steps", 2))
    with pytest.raises(SettingError, match="holds finished heads"):
        module.train(options(checkpoints, data, tmp_path / "out"))


def test_text_that_leaves_nothing_to_calibrate_on_is_refused_before_training(
    checkpoints, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(Trainer, "train", lambda self: pytest.fail("it trained"))
    with pytest.raises(SettingError, match=r"held-out.*fewer than one window"):
        module.train(options(checkpoints, data, tmp_path / "out", "--held_out", 0.0001))


@pytest.mark.parametrize(
    ("typed", "meant"), [(r"\nQ:", "\nQ:"), ("é。\n", "é。\n"), (r"。\n", "。\n"), (r"\\", "\\")]
)
def test_stops_are_what_was_typed(typed, meant):
    given = ["--model", "dynamax-mamba", "--output_path", "out", "--until", typed]
    assert read_options(given).until == [meant]


def test_the_named_losses_are_those_that_there_are():
    assert sorted(CLASSIFIER_LOSSES) == list(LOSSES)


@pytest.mark.parametrize(
    ("given", "status", "says"), [("--help", 0, "--max_steps"), ("--model=x", 2, "'x'")]
)
def test_help_and_wrong_options_need_no_torch(given, status, says):
    """They are answered at once."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "sys.modules['transformers'] = None\n"
        "from dynamax_lm.heads.train.__main__ import main\n"
        f"main([{given!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert says in (done.stderr if status else done.stdout)
    assert status == 0 or len(done.stderr.splitlines()) == 1
