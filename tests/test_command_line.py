"""Wrong values through lm-eval's own command line: one line, status 1, before any weights load.

Starting lm-eval costs seconds, and reading its ten thousand task files more, so one process does
both and forks a child for every command; the children run lm-eval's ``main`` as its script does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.checkpoints import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import gc, json, os, pathlib, sys

sys.path.insert(0, {root!r})
from dynamax_lm.harness.plugin.hook import force

force()
import lm_eval.evaluator
import lm_eval.loggers
import lm_eval.models.huggingface as host
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks._index import TaskIndex

import dynamax_lm.models.lm

index = TaskIndex().build([pathlib.Path({tasks!r})])
TaskIndex.build = lambda self, paths, **options: index


def no_weights(self, *args, **kwargs):
    os._exit(99)


host.HFLM._create_model = no_weights
gc.freeze()  # a child that frees what it shares would copy all of it first
gc.disable()
for number, command in enumerate(json.loads({commands!r})):
    child = os.fork()
    if child == 0:
        file = os.open(f"{folder}/{{number}}.err", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 2)
        sys.argv = ["lm_eval", *command]
        cli_evaluate()
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    with open(f"{folder}/{{number}}.status", "w") as out:
        out.write(str(os.waitstatus_to_exitcode(status)))
"""


class Case(NamedTuple):
    """A command that must fail, and words that its one line must have."""

    model: str
    arguments: str
    words: tuple[str, ...]


MISTRAL, MAMBA = "dynamax-mistral", "dynamax-mamba"
CASES = [
    Case(MISTRAL, "pretrained=tiny,confidence=sure", ("confidence=sure", "top_prob", "margin")),
    Case(MAMBA, "pretrained=tiny,confidence=entropie", ("entropie", "entropy")),
    Case(MISTRAL, "pretrained=tiny,threshold=1.5", ("threshold=1.5", "[0, 1]")),
    Case(MAMBA, "pretrained=tiny,threshold=abc", ("threshold=", "abc", "[0, 1]")),
    Case(MISTRAL, "pretrained=tiny,threshold=nan", ("threshold=nan", "[0, 1]")),
    Case(MISTRAL, "pretrained=tiny,exit_layers=0", ("exit_layers=0", "count from 1")),
    Case(MAMBA, "pretrained=tiny,exit_layers=8+99", ("exit_layers", "99")),
    Case(MISTRAL, "pretrained=tiny,exit_layers=[4,16]", ("exit_layers", "16")),
    Case(
        MAMBA,
        "pretrained=tiny,skipped_state=copy_kv",
        ("copy_kv", "propagate, freeze or recompute"),
    ),
    Case(MISTRAL, "pretrained=tiny,skipped_state=freeze", ("freeze", "propagate")),
    Case(MISTRAL, "pretrained=tiny,treshold=0.5", ("treshold", "threshold")),
    Case(MISTRAL, "pretrained={mamba2}", ("mamba2", "use --model dynamax-mamba")),
    Case(MAMBA, "pretrained={mistral}", ("mistral", "use --model dynamax-mistral")),
    Case(MAMBA, "pretrained=./no/such/folder", ("./no/such/folder", "no such folder", "tiny")),
    Case(MISTRAL, "pretrained=nobody/nothing", ("nobody/nothing", "pretrained=tiny")),
    Case(MISTRAL, "", ("mistralai/Mistral-7B-v0.3", "pretrained=tiny needs no network")),
    Case(MAMBA, "", ("mistralai/Mamba-Codestral-7B-v0.1", "pretrained=tiny needs no network")),
]


class Ran(NamedTuple):
    """How a command ended."""

    status: int
    errors: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Ran]:
    """Every case, run once."""
    folder = tmp_path_factory.mktemp("commands")
    kinds = {kind: save_checkpoint(folder / kind, kind) for kind in ("mistral", "mamba2")}
    commands = [
        ["run", "--model", case.model, "--tasks", "dynamax_coqa_sample", "--limit", "1"]
        + (["--model_args", case.arguments.format(**kinds)] if case.arguments else [])
        for case in CASES
    ]
    script = folder / "lm_eval"  # the name by which an error knows that a person typed it
    script.write_text(
        SCRIPT.format(
            root=str(ROOT),
            tasks=str(ROOT / "dynamax_lm" / "tasks"),
            commands=json.dumps(commands),
            folder=folder,
        )
    )
    parent = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert parent.returncode == 0, parent.stderr
    return [
        Ran(
            int((folder / f"{number}.status").read_text()),
            (folder / f"{number}.err").read_text(),
        )
        for number in range(len(CASES))
    ]


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=[f"{case.model}:{case.arguments}" for case in CASES]
)
def test_a_wrong_value_is_one_line_and_status_one(number: int, runs: list[Ran]) -> None:
    status, errors = runs[number]
    assert status == 1, errors
    assert "Traceback" not in errors
    *_, last = errors.splitlines()
    assert last.startswith("dynamax_lm: error: ")
    assert errors.count("error:") == 1
    for word in CASES[number].words:
        assert word in last


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "Language Model Evaluation Harness"),
        (["run", "-h"], "--model_args"),
        (["--model", "hf", "--help"], "--model_args"),
    ],
)
def test_help_imports_the_parser_alone(words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dynamax_lm", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "lm_eval._cli.run" in imported
    assert not imported & {"torch", "numpy", "lm_eval.utils", "lm_eval.evaluator"}
