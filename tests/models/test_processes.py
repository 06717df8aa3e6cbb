"""Data-parallel processes of a real model print what one process prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import save_checkpoint
from tests.quick import results_in, run_lm_eval

ROOT = Path(__file__).parents[2]
TASKS = "dynamax_coqa_sample,dynamax_truthfulqa_mc1_sample"


def options(checkpoint: Path, out: Path) -> list[str]:
    """What both runs are asked for."""
    arguments = f"pretrained={checkpoint},threshold=0.3,exit_layers=2,dtype=float32,max_length=400"
    return [
        *("--model", "dynamax-mamba", "--model_args", arguments, "--tasks", TASKS),
        *("--limit", "5", "--batch_size", "2", "--gen_kwargs", "max_gen_toks=4"),
        *("--output_path", str(out), "--include_path", str(ROOT / "dynamax_lm" / "tasks")),
    ]


def results_of_two(asked: list[str]) -> None:
    """The command line, started as two processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    launcher += ["--rdzv_endpoint=localhost:0", str(Path(__file__).parent / "rank_lm_eval.py")]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, *launcher, *asked],
        check=True,
        timeout=250,
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths},
    )


@pytest.mark.usefixtures("toys_alone")
def test_two_processes_report_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "mamba2")
    run_lm_eval(monkeypatch, *options(checkpoint, tmp_path / "one"))
    results_of_two(options(checkpoint, tmp_path / "two"))
    one, two = (results_in(next((tmp_path / name).iterdir())) for name in ("one", "two"))
    for task, metrics in one["results"].items():
        numbers = {k: v for k, v in metrics.items() if "," in k and isinstance(v, float)}
        assert "layers_used,none" in numbers
        assert {key: two["results"][task][key] for key in numbers} == pytest.approx(numbers)
    ours, theirs = (found["config"]["early_exit"] for found in (one, two))
    assert theirs["tasks"] == ours["tasks"]
    assert theirs["depth_histogram"] == ours["depth_histogram"]
