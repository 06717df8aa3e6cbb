"""Two data-parallel processes report what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.utils import make_table
from toy_model import ToyExits

from dynamax_lm.common.tracefile import read_trace, trace_files

Evaluate = Callable[..., dict[str, Any]]

HERE = Path(__file__).parent
# No metric here is bootstrapped: lm-eval's own bootstrap depends on the documents' order.
TASKS = ("toy_gen", "toy_group", "toy_mutual", "toy_repeats", "toy_code", "toy_fails")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("ranks") / "traces.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    rendezvous = ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [*launcher, *rendezvous, str(HERE / "rank.py"), str(out), *TASKS],
        check=True,
        timeout=120,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )
    return json.loads(out.read_text()), out.with_suffix("")


@pytest.fixture(scope="module")
def one_process(evaluate: Evaluate) -> dict[str, Any]:
    return evaluate(*TASKS, bootstrap_iters=1, confirm_run_unsafe_code=True)


def test_the_tables_are_the_same(
    one_process: dict[str, Any], two_processes: tuple[dict[str, Any], Path]
) -> None:
    ours, _ = two_processes
    assert ours["table"] == make_table(one_process) + make_table(one_process, "groups")
    for task, metrics in one_process["results"].items():
        numbers = {key: value for key, value in metrics.items() if "," in key}
        assert {key: ours["results"][task][key] for key in numbers} == pytest.approx(numbers)


def test_noise_is_the_same(evaluate: Evaluate, two_processes: tuple[dict[str, Any], Path]) -> None:
    ours, _ = two_processes
    alone = evaluate("toy_gen", "toy_mc", model=ToyExits(noise=0.3), bootstrap_iters=1)
    assert "|agreement_noise" in ours["noisy"]
    assert ours["noisy"] == make_table(alone)


def test_the_block_counts_every_document_once(
    one_process: dict[str, Any], two_processes: tuple[dict[str, Any], Path]
) -> None:
    ours, _ = two_processes
    assert ours["block"]["documents"] == one_process["config"]["early_exit"]["documents"]
    expected = json.loads(json.dumps(one_process["config"]["early_exit"]))
    assert ours["block"] == expected


def test_the_ranks_trace_files_share_the_rows(
    evaluate: Evaluate, two_processes: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    _, folder = two_processes
    evaluate("toy_repeats", model=ToyExits(trace_dir=str(tmp_path)))
    parts = trace_files(folder, "toy_repeats")
    assert [p.name for p in parts] == [f"trace_toy_repeats.rank{r}-of-2.jsonl" for r in (0, 1)]
    split = [line for part in parts for line in read_trace(part)]
    whole = list(read_trace(tmp_path / "trace_toy_repeats.jsonl"))
    assert sorted(split, key=lambda x: x[:6]) == sorted(whole, key=lambda x: x[:6])


def test_a_key_that_one_rank_lacks_is_left_out_and_named(
    two_processes: tuple[dict[str, Any], Path],
) -> None:
    """lm-eval would fail on it: it gathers by the first rank's keys."""
    table, block = two_processes[0]["uneven"]
    assert "full_depth_exact_match,none" in table
    assert "full_depth_extra,none" not in table
    assert "full_depth_extra" in block["skipped"]["toy_uneven"]
