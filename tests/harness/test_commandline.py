"""Our commands read lm-eval's options as lm-eval does, and err in one line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.command_line import Command, add_lm_eval_options, run_command
from dynamax_lm.harness.plugin.task_folder import stock_tasks_too
from tests.quick import only_toys

TOYS = str(Path(__file__).parents[1] / "harness" / "toys")


@pytest.fixture(autouse=True)
def _only_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    only_toys(monkeypatch)


def read(*arguments: str) -> Command:
    parser = argparse.ArgumentParser()
    add_lm_eval_options(parser)
    return Command(parser.parse_args(["--include_path", TOYS, *arguments]))


def test_values_arrive_as_in_lm_eval() -> None:
    command = read(
        *("--model", "dynamax-mamba", "--tasks", "toy_mc,toy_gen", "toy_rolling"),
        *("--model_args", "pretrained=tiny,exit_layers=[8,16]", "threshold=0.5"),
        *("--gen_kwargs", "max_gen_toks=7", "--seed", "3", "--limit", "2"),
    )
    assert command.model_args == {"pretrained": "tiny", "exit_layers": [8, 16], "threshold": 0.5}
    assert command.config.tasks == ["toy_mc", "toy_gen", "toy_rolling"]
    assert command.config.gen_kwargs == {"max_gen_toks": 7}
    assert command.config.seed == [3, 3, 3, 3]
    assert command.config.num_fewshot is None


@pytest.mark.parametrize(
    ("tasks", "stock"), [("dynamax_sample", False), ("dynamax_coqa,toy_mc", True)]
)
def test_stock_tasks_are_read_only_where_tasks_are_not_ours(
    tasks: str, stock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def process(*_: object) -> None:
        told.append(stock_tasks_too())

    config = "lm_eval.config.evaluate_config.EvaluatorConfig"
    monkeypatch.setattr(f"{config}.process_tasks", process)
    parser = argparse.ArgumentParser()
    add_lm_eval_options(parser)
    Command(parser.parse_args(["--model", "dynamax-mistral", "--tasks", tasks]))
    assert told == [stock]
    assert stock_tasks_too()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("--model", "dynamax-mamba"), "dynamax-mamba__mistralai__Mamba-Codestral-7B-v0.1"),
        (
            ("--model", "dynamax-mistral", "--model_args", "pretrained=tiny"),
            "dynamax-mistral__tiny",
        ),
        (
            ("--model", "dynamax-mistral", "--model_args", "pretrained=/some/where/model"),
            "dynamax-mistral__some__where__model",
        ),
    ],
)
def test_folders_are_named_after_model_and_checkpoint(
    arguments: tuple[str, ...], name: str
) -> None:
    assert read(*arguments, "--tasks", "toy_mc").checkpoint == name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--tasks", "toy_mc"), "--model is missing"),
        (("--model", "hf", "--tasks", "toy_mc"), "choose one of dynamax-mistral, dynamax-mamba"),
        (("--model", "dynamax-mamba"), "--tasks is missing"),
        (("--model", "dynamax-mamba", "--tasks", "toy_nothing"), "toy_nothing"),
        (("--model", "dynamax-mamba", "--tasks", "toy_mc", "--limit", "-2"), "--limit -2"),
    ],
)
def test_wrong_options_are_one_line(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)


def test_a_wrong_setting_ends_a_command_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(arguments: list[str]) -> None:
        raise SettingError(f"no {arguments[0]}")

    monkeypatch.setattr(sys, "argv", ["sweep", "this"])
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda level: None)
    with pytest.raises(SystemExit) as caught:
        run_command(refuse)
    assert caught.value.code == "dynamax_lm: error: no this"


@pytest.mark.parametrize("told", ["", "the same command goes on"])
def test_an_interrupt_is_one_line_and_status_130(
    told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(arguments: list[str]) -> None:
        raise KeyboardInterrupt(*[told] * bool(told))

    monkeypatch.setattr(sys, "argv", ["certify"])
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda level: None)
    with pytest.raises(SystemExit) as caught:
        run_command(stop)
    assert caught.value.code == 130
    line = capsys.readouterr().err.strip()
    assert line == f"dynamax_lm: interrupted{told and f'; {told}'}"


@pytest.mark.parametrize("command", ["sweep", "headroom"])
def test_commands_run_as_modules(command: str) -> None:
    """As a user starts them: a refusal is one line on stderr and status 1."""
    done = subprocess.run(
        [sys.executable, "-m", f"dynamax_lm.{command}", "--output_path", "x", "--model", "gpt"]
        + (["--thresholds", "0.5"] if command == "sweep" else []),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "dynamax_lm: error: --model gpt: choose one of dynamax-mistral, dynamax-mamba, dynamax"
    ]
