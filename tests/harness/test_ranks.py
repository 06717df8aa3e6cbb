"""Two and four data-parallel processes report what one does, with uneven or no documents."""

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


@pytest.fixture(scope="module", params=[2, 4])
def processes(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def many_processes(
    processes: int, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("ranks") / "traces.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
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
    one_process: dict[str, Any], many_processes: tuple[dict[str, Any], Path]
) -> None:
    ours, _ = many_processes
    assert ours["table"] == make_table(one_process) + make_table(one_process, "groups")
    for task, metrics in one_process["results"].items():
        numbers = {key: value for key, value in metrics.items() if "," in key}
        assert {key: ours["results"][task][key] for key in numbers} == pytest.approx(numbers)


def test_noise_is_the_same(
    evaluate: Evaluate, processes: int, many_processes: tuple[dict[str, Any], Path]
) -> None:
    """Of four processes one has no document of ``toy_gen`` with this key, which is left out."""
    ours, _ = many_processes
    alone = evaluate("toy_gen", "toy_mc", model=ToyExits(noise=0.3), bootstrap_iters=1)
    tables = [ours["noisy"].splitlines(), make_table(alone).splitlines()]
    noisy = [[row for row in table if "|agreement_noise" in row] for table in tables]
    assert [len(rows) for rows in noisy] == [2 if processes == 2 else 1, 2]
    others = [[row for row in table if row not in noisy[1]] for table in tables]
    assert others[0] == others[1]
    assert noisy[0] == noisy[1][-len(noisy[0]) :]


def test_the_block_counts_every_document_once(
    one_process: dict[str, Any], many_processes: tuple[dict[str, Any], Path]
) -> None:
    ours, _ = many_processes
    assert ours["block"]["documents"] == one_process["config"]["early_exit"]["documents"]
    expected = json.loads(json.dumps(one_process["config"]["early_exit"]))
    assert ours["block"] == expected


def test_the_ranks_trace_files_share_the_rows(
    evaluate: Evaluate,
    processes: int,
    many_processes: tuple[dict[str, Any], Path],
    tmp_path: Path,
) -> None:
    _, folder = many_processes
    evaluate("toy_repeats", model=ToyExits(trace_dir=str(tmp_path)))
    parts = trace_files(folder, "toy_repeats")
    names = [f"trace_toy_repeats.rank{r}-of-{processes}.jsonl" for r in range(processes)]
    assert [part.name for part in parts] == names
    split = [line for part in parts for line in read_trace(part)]
    whole = list(read_trace(tmp_path / "trace_toy_repeats.jsonl"))
    assert sorted(split, key=lambda x: x[:6]) == sorted(whole, key=lambda x: x[:6])


def test_a_key_that_one_rank_lacks_is_left_out_and_named(
    many_processes: tuple[dict[str, Any], Path],
) -> None:
    """lm-eval would fail on it: it gathers by the first rank's keys."""
    table, block = many_processes[0]["uneven"]
    assert "full_depth_exact_match,none" in table
    assert "full_depth_extra,none" not in table
    assert "full_depth_extra" in block["skipped"]["toy_uneven"]
