"""Data-parallel processes of a real model print what one process prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import save_checkpoint
from tests.quick import results_in, run_lm_eval

ROOT = Path(__file__).parents[2]
TASKS = "dynamax_coqa_sample,dynamax_truthfulqa_mc1_sample"
MODES = {"exit": "threshold=0.3", "lossless": "mode=lossless,threshold=0.05"}


def options(checkpoint: Path, out: Path, mode: str) -> list[str]:
    """What both runs are asked for."""
    arguments = f"pretrained={checkpoint},{MODES[mode]},exit_layers=2,dtype=float32,max_length=400"
    return [
        *("--model", "dynamax-mamba", "--model_args", arguments, "--tasks", TASKS),
        *("--limit", "5", "--batch_size", "2", "--gen_kwargs", "max_gen_toks=4"),
        *("--output_path", str(out), "--include_path", str(ROOT / "dynamax_lm" / "tasks")),
    ]


def run_as_two(*commands: list[str]) -> None:
    """The command lines, one after another, in two processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    launcher += ["--rdzv_endpoint=localhost:0", str(Path(__file__).parent / "rank_lm_eval.py")]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    asked = [argument for command in commands for argument in ("--next", *command)]
    ran = subprocess.run(
        [sys.executable, *launcher, *asked],
        check=False,
        timeout=250,
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths},
    )
    assert ran.returncode == 0, ran.stderr[-4000:]


def numbers(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By task, its metrics and their errors."""
    return {
        task: {k: v for k, v in metrics.items() if "," in k and isinstance(v, float)}
        for task, metrics in results["results"].items()
    }


@pytest.mark.usefixtures("toys_alone")
def test_two_processes_report_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both modes; and a warm cache, of which each process has its own, reports the same."""
    checkpoint = save_checkpoint(tmp_path / "model", "mamba2")
    cache = ("--use_cache", str(tmp_path / "cache"))
    lossless = [*options(checkpoint, tmp_path / "two" / "lossless", "lossless"), *cache]
    warm = [*options(checkpoint, tmp_path / "two" / "warm", "lossless"), *cache]
    run_as_two(options(checkpoint, tmp_path / "two" / "exit", "exit"), lossless, warm)
    found = {out.name: results_in(next(out.iterdir())) for out in (tmp_path / "two").iterdir()}
    for mode in MODES:
        run_lm_eval(monkeypatch, *options(checkpoint, tmp_path / mode, mode))
        alone = results_in(next((tmp_path / mode).iterdir()))
        for name in (mode, "warm") if mode == "lossless" else (mode,):
            for task, metrics in numbers(alone).items():
                assert "layers_used,none" in metrics
                assert numbers(found[name])[task] == pytest.approx(metrics)
            ours, theirs = (one["config"]["early_exit"] for one in (alone, found[name]))
            for counts in ("tasks", "depth_histogram", "drafts"):
                assert theirs.get(counts) == ours.get(counts)
    cold, again = (found[name]["config"]["early_exit"] for name in ("lossless", "warm"))
    assert cold["drafts"]["accepted"] > 0
    assert (cold["speed"]["documents"], again["speed"]["documents"]) == (3, 0)
