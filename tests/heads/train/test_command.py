import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.train import __main__ as entry
from dynamax_lm.heads.train import command as module
from dynamax_lm.heads.train import finish as ending
from dynamax_lm.heads.train.losses import CLASSIFIER_LOSSES
from dynamax_lm.heads.train.objective import Objective
from dynamax_lm.heads.train.options import LOSSES, read_options
from dynamax_lm.heads.train.seal import sealed, unsealed
from dynamax_lm.heads.train.trainer import CHECKPOINT, LOG, Stopped, Trainer, read_log
from tests.checkpoints import save_checkpoint

MODELS = {"dynamax-mistral": "mistral", "dynamax-mamba": "mamba2"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {model: str(save_checkpoint(root / kind, kind)) for model, kind in MODELS.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    draw = random.Random(0)
    words = ["the", "old", "river", "ran", "under", "seven", "bridges", "and", "home"]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=30))}) for _ in range(40)]
    path.write_text("\n".join(lines))
    return str(path)


def options(checkpoints, data, out, *more, model="dynamax-mistral"):
    common = ("--max_steps", 6, "--batch_size", 2, "--window", 24, "--held_out", 0.3)
    common += ("--save_every", 2, "--log_every", 1, "--calibration_tokens", 300, "--width", 8)
    given = ("--model", model, "--model_args", f"pretrained={checkpoints[model]},dtype=float32")
    return [str(one) for one in (*given, "--data", data, "--output_path", out, *common, *more)]


def digest(module):
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


@pytest.fixture
def stop_after(monkeypatch):
    """Make something happen after a step."""

    def arrange(step, act):
        before = Trainer._one_step

        def after(self):
            losses = before(self)
            if self.step == step:
                act()
            return losses

        monkeypatch.setattr(Trainer, "_one_step", after)
        return lambda: monkeypatch.setattr(Trainer, "_one_step", before)

    return arrange


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


def remains(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)["step"]


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


def test_a_full_disk_under_the_cache_is_one_line(checkpoints, data, tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("dynamax_lm.heads.train.hidden_state_cache.save_file", full)
    with pytest.raises(SettingError, match=r"No space left on device"):
        module.train(options(checkpoints, data, tmp_path / "out", "--cache"))
    assert not list((tmp_path / "out").rglob(".*"))


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


def test_finished_heads_are_not_overwritten(checkpoints, data, tmp_path):
    module.train(options(checkpoints, data, tmp_path / "out", "--max_steps", 2))
    with pytest.raises(SettingError, match="holds finished heads"):
        module.train(options(checkpoints, data, tmp_path / "out"))


def test_the_model_answers_its_prompts_once(checkpoints, tmp_path, monkeypatch):
    data = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"question {n}:", "answer": "x"}) for n in range(30)]
    data.write_text("\n".join(lines))
    extra = ("--answers", "model", "--max_gen_toks", 5, "--until", r"\n", "--window", 40)
    arguments = options(checkpoints, str(data), tmp_path / "out", *extra, "--max_steps", 2)
    module.train(arguments)
    rows = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert len(rows) == 30
    assert len({json.loads(row)["key"] for row in rows}) == 30
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "answers.jsonl").write_text("\n".join([*rows[:-1], rows[-1][:9]]))
    monkeypatch.setattr(
        "dynamax_lm.heads.train.self_generated._answer", lambda b, some, *_: ["y"] * len(some)
    )
    again = [str(tmp_path / "again") if one == str(tmp_path / "out") else one for one in arguments]
    module.train(again)
    kept = (tmp_path / "again" / "answers.jsonl").read_text().splitlines()
    assert kept[:-1] == rows[:-1]
    assert json.loads(kept[-1])["answer"] == "y"


@pytest.mark.parametrize(
    ("more", "kept"),
    [((), 30), (("--max_gen_toks", 6), 0), (("--until", "x"), 0), (("--window", 41), 0)],
)
def test_answers_of_other_settings_are_not_kept(checkpoints, tmp_path, monkeypatch, more, kept):
    data = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"question {n}:", "answer": "x"}) for n in range(30)]
    data.write_text("\n".join(lines))
    extra = ("--answers", "model", "--max_gen_toks", 5, "--window", 40, "--max_steps", 2)
    arguments = options(checkpoints, str(data), tmp_path / "out", *extra)
    module.train(arguments)
    for file in (tmp_path / "out").iterdir():
        if file.name != "answers.jsonl":
            file.unlink()
    answered = []
    original = module.answered.__globals__["_answer"]

    def counted(backbone, some, tokens, window):
        answered.extend(some if tokens > 1 else ())  # not a first pass of one token
        return original(backbone, some, tokens, window)

    monkeypatch.setattr("dynamax_lm.heads.train.self_generated._answer", counted)
    module.train([*arguments, *map(str, more)])
    assert len(answered) == 30 - kept


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


def test_the_command_line_ends_a_stopped_run_with_the_signals_status(
    checkpoints, data, tmp_path, stop_after, capsys
):
    stop_after(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as raised:
        entry.main(options(checkpoints, data, tmp_path / "out"))
    assert raised.value.code == 128 + signal.SIGTERM
    assert "the same command goes on" in capsys.readouterr().err


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
