"""Fixtures of the certification's command: a checkpoint, records, and the command itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.certify.cli import main
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.harness.decontamination import read_records
from dynamax_lm.harness.plugin.task_folder import TASKS
from tests.certify.command import DOCUMENTS, TOYS, Run, sums, write
from tests.checkpoints import save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mamba2"), "mamba2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough new documents, repeats of two, and one that the samples evaluate on."""
    sample = next(read_records(TASKS / "triviaqa" / "sample.jsonl"))
    stranger = {"question": sample["question"], "answer": "x", "choices": ["x", "y"], "gold": 0}
    records = sums(DOCUMENTS)
    mixed = [stranger, *records[:2], *records]
    return write(tmp_path_factory.mktemp("data") / "sums.jsonl", mixed)


@pytest.fixture
def run(folder: Path, data: Path, tmp_path: Path) -> Run:
    """``run(task=..., **options)``: the command with good options, some of them changed."""

    def call(**options: Any) -> Certificate:
        defaults: dict[str, Any] = {
            "model": "dynamax-mamba",
            "model_args": f"pretrained={folder},exit_layers=1+2+3,dtype=float32",
            "tasks": "toy_gen",
            "data": data,
            "include_path": TOYS,
            "gen_kwargs": "max_gen_toks=3",
            "num_fewshot": 0,
            "batch_size": 64,
            "device": "cpu",
            "thresholds": "1,0.9,0.2,0",
            "risk": 0.1,
            "output_path": tmp_path / "out",
        }
        given = {name: value for name, value in (defaults | options).items() if value is not None}
        words = [
            part
            for name, value in given.items()
            for part in ((f"--{name}",) if value is True else (f"--{name}", str(value)))
        ]
        return main(words)

    return call
