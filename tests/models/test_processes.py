"""Data-parallel processes of a real model print what one process prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import save_checkpoint

ROOT = Path(__file__).parents[2]
TASKS = "dynamax_coqa_sample,dynamax_truthfulqa_mc1_sample"


def results_of(launcher: list[str], checkpoint: Path, out: Path) -> dict[str, Any]:
    """Results of the command line, started by ``launcher``."""
    arguments = f"pretrained={checkpoint},threshold=0.3,exit_layers=2,dtype=float32,max_length=400"
    options = ["--model_args", arguments, "--tasks", TASKS, "--limit", "5", "--batch_size", "2"]
    options += ["--gen_kwargs", "max_gen_toks=4", "--output_path", str(out)]
    subprocess.run(
        [sys.executable, *launcher, "dynamax_lm", "--model", "dynamax-mamba", *options],
        check=True,
        timeout=200,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    (file,) = out.rglob("results_*.json")
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def test_two_processes_report_what_one_does(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "mamba2")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    launch += ["--rdzv_endpoint=localhost:0", "-m"]
    one = results_of(["-m"], checkpoint, tmp_path / "one")
    two = results_of(launch, checkpoint, tmp_path / "two")
    for task, metrics in one["results"].items():
        numbers = {k: v for k, v in metrics.items() if "," in k and isinstance(v, float)}
        assert "layers_used,none" in numbers
        assert {key: two["results"][task][key] for key in numbers} == pytest.approx(numbers)
    ours, theirs = (found["config"]["early_exit"] for found in (one, two))
    assert theirs["tasks"] == ours["tasks"]
    assert theirs["depth_histogram"] == ours["depth_histogram"]
