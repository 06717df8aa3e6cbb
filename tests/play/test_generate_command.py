"""The command shows what the public interface answers, in every form."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import dynamax_lm
from dynamax_lm.harness.command_line import run_command
from dynamax_lm.play.command import main

PROMPTS = ["a quiet harbour", "numbers 1 2 3"]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹"


def model_of(checkpoint: Path) -> str:
    kind = json.loads((checkpoint / "config.json").read_text())["model_type"]
    return "dynamax-mamba" if kind == "mamba2" else "dynamax-mistral"


def command(checkpoint: Path, *more: str, **settings: str) -> list[str]:
    given = {"threshold": "0.02", "exit_layers": "1+2+3"} | settings
    arguments = ",".join(f"{name}={value}" for name, value in given.items())
    return [
        *("--model", model_of(checkpoint), "--device", "cpu"),
        *("--model_args", f"pretrained={checkpoint},dtype=float32,{arguments}"),
        *("--gen_kwargs", "max_gen_toks=6", *more),
    ]


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("mode", ["exit", "full", "lossless"])
def test_json_is_what_the_interface_answers(
    checkpoint: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, str] = {"mode": mode}
    if mode == "lossless":
        settings |= {"exit_layers": "2", "threshold": "0"}
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    main(command(checkpoint, *prompts, "--json", **settings))
    found = records(capsys)
    exits = [int(one) for one in settings.get("exit_layers", "1+2+3").split("+")]
    model = dynamax_lm.load(
        str(checkpoint),
        **{"threshold": 0.02, "dtype": "float32", "exit_layers": exits} | settings,
    )
    answers = model.generate(PROMPTS, max_gen_toks=6)
    for record, answer in zip(found, answers, strict=True):
        assert record["text"] == answer.text
        assert [one["token"] for one in record["tokens"]] == list(answer.tokens)
        assert [one["layers_used"] for one in record["tokens"]] == list(answer.layers_used)
        assert "".join(one["text"] for one in record["tokens"]) == "".join(answer.pieces)
        assert record["agreement"] == answer.agreement
        assert record["flops_saved"] == answer.flops.flops_saved
        assert record["seconds"] > 0
        assert record["full_depth_seconds"] > 0
        assert ("drafts" in record) == (mode == "lossless")


def test_a_token_is_what_its_exit_predicts_over_an_exact_state(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--prompt", PROMPTS[0], "--json", "--show", "exits")
    main(command(checkpoint, *more, skipped_state="recompute"))
    (record,) = records(capsys)
    exits = record["exits"]
    columns = [*exits["layers"], 4]
    assert len(exits["tokens"]) == len(exits["confidence"]) == len(record["tokens"]) > 0
    for row, token in zip(exits["tokens"], record["tokens"], strict=True):
        assert row[columns.index(token["layers_used"])] == token["token"]
        assert row[-1] == token["full_depth"]


@pytest.mark.parametrize("colour", [False, True])
def test_the_stream_is_the_answer(
    checkpoint: Path,
    colour: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR" if colour else "NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    main(command(checkpoint, "--prompt", PROMPTS[0]))
    out = capsys.readouterr().out
    assert bool(re.search(r"\x1b\[[0-9;]*[34]8;", out)) == colour
    answer = dynamax_lm.load(
        str(checkpoint), threshold=0.02, dtype="float32", exit_layers=[1, 2, 3]
    ).generate(PROMPTS[0], max_gen_toks=6)
    depths = answer.layers_used
    marks = ["" if colour or one == 4 else RAISED[one] for one in depths]
    text = "".join(
        piece.replace("\n", "↵") + mark for piece, mark in zip(answer.pieces, marks, strict=True)
    )
    shown = ESCAPE.sub("", out).replace("\n", "").replace("\ufffd", "")  # unfinished characters
    assert text.replace("\t", "⇥").replace("\r", "").replace("\ufffd", "") in shown
    assert f"{sum(depths[: len(answer)]) / len(answer):.1f} of 4 layers a token" in out


def test_a_lossless_stream_marks_drafts(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    lossless = {"mode": "lossless", "exit_layers": "2", "threshold": "0"}
    main(command(checkpoint, "--prompt", PROMPTS[0], **lossless))
    out = capsys.readouterr().out
    main(command(checkpoint, "--prompt", PROMPTS[0], "--json", **lossless))
    (record,) = records(capsys)
    accepted = sum(one["accepted"] for one in record["drafts"])
    drafted = sum(len(one["drafted"]) for one in record["drafts"])
    body = out.partition(" of text")[0].removeprefix(PROMPTS[0])
    assert body.count("⁺") == min(accepted, len(record["tokens"]))
    assert body.count("[-") == sum(
        one["accepted"] < len(one["drafted"]) and one["accepted"] + one["start"] < 6
        for one in record["drafts"]
    )
    assert f"{accepted} of {drafted} drafted tokens accepted" in out


@pytest.mark.parametrize("width", [30, 60, 120])
def test_the_table_of_exits_fits_the_terminal(
    checkpoint: Path,
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    main(command(checkpoint, "--prompt", "a", "--show", "exits"))
    out = capsys.readouterr().out
    table = out[out.index("\ntoken ") + 1 :].splitlines()
    heads = [line for line in table if "layer " in line]
    assert sum(len(re.findall(r"layer \d", line)) for line in heads) == 3
    assert max(len(line.rstrip()) for line in table) <= width
    cells = [line for line in table if line and line not in heads]
    assert cells
    assert all(re.search(r" \d\.\d\d\b", line) for line in cells), "a confidence is cut"


@pytest.mark.parametrize("threshold", ["0.02", "1"])
def test_an_answer_without_exits_says_so(
    checkpoint: Path, threshold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(checkpoint, "--prompt", PROMPTS[0], threshold=threshold))
    said = "no token exited at threshold 1; a lower one exits earlier" in capsys.readouterr().out
    assert said == (threshold == "1")


def test_no_color_writes_no_escapes_on_a_terminal(checkpoint: Path) -> None:
    """In a real terminal: rich keeps bold and dim under its own reading of ``NO_COLOR``."""
    main_end, end = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"}
    environment.pop("FORCE_COLOR", None)
    given = [sys.executable, "-m", "dynamax_lm.generate", *command(checkpoint, "--prompt", "a")]
    done = subprocess.run(given, stdout=end, stderr=subprocess.PIPE, env=environment, check=True)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while piece := os.read(main_end, 4096):
            shown += piece
    os.close(main_end)
    assert b"layers a token" in shown
    assert b"\x1b" not in shown
    assert b"next: lm_eval --model " in done.stderr


def test_prompts_come_from_standard_input_and_are_written_to_a_page(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*PROMPTS, ""])))
    page = tmp_path / "new" / "answers.html"
    main(command(checkpoint, "--json", "--html", str(page)))
    found = records(capsys)
    assert [record["prompt"] for record in found] == PROMPTS

    class Data(HTMLParser):
        script = ""
        inside = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside = ("id", "data") in attrs

        def handle_data(self, data: str) -> None:
            self.script += data if self.inside else ""

    reader = Data()
    reader.feed(page.read_text())
    for document, record in zip(json.loads(reader.script), found, strict=True):
        (answer,) = document["answers"]
        assert document["prompt"] == record["prompt"]
        depths = [(one["text"], one["layers_used"]) for one in record["tokens"]]
        assert [(one[0], one[1]) for one in answer["tokens"]] == depths
    assert "index.html" not in page.read_text()


def test_sampling_depends_on_the_seed_alone(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for seed in ("1", "1", "2", "0", "1234"):
        more = ("--prompt", PROMPTS[0], "--json", "--seed", seed)
        main([*command(checkpoint, *more), "--gen_kwargs", "do_sample=true,max_gen_toks=12"])
        (record,) = records(capsys)
        texts.append([one["token"] for one in record["tokens"]])
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] != texts[4], "0 is a seed, not the default"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--model", "hf"], "choose one of dynamax-mistral"),
        (["--prompt", ""], "--prompt is empty"),
        (["--model_args", "pretrained=tiny,threshold=2"], "threshold=2"),
        (["--html", "."], "this is a folder"),
        (["--model", "dynamax-mistrl"], "did you mean dynamax-mistral?"),
        (["--gen_kwargs", "max_gen_tok=5"], "did you mean 'max_gen_toks'?"),
    ],
)
def test_a_wrong_value_is_one_line(
    given: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_weights(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lm_eval.models.huggingface.HFLM._create_model", no_weights)
    usual = ["--model", "dynamax-mistral", "--model_args", "pretrained=tiny", "--prompt", "x"]
    monkeypatch.setattr(sys, "argv", ["generate", *usual, *given])
    with pytest.raises(SystemExit, match=re.escape(line)) as stopped:
        run_command(main)
    assert str(stopped.value.code).startswith("dynamax_lm: error: ")
    assert "\n" not in str(stopped.value.code)


def test_no_prompt_is_one_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(dynamax_lm.SettingError, match="no prompt"):
        main(command(checkpoint))


def test_the_command_leaves_the_function_of_its_name_in_place() -> None:
    assert callable(dynamax_lm.generate)
