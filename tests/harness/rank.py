"""One data-parallel process of ``test_ranks``: evaluates toys, writes what rank 0 would print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import torch
import toy_model
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table


def main(out: str, *tasks: str) -> None:
    """Runs ``tasks``, and one of uneven metrics; writes table, results and blocks to ``out``.

    The machine is not looked at, which takes seconds in each evaluation.
    """
    lm_eval.evaluator.add_env_info = lambda results: None
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    torch.distributed.init_process_group("gloo")
    results = _evaluate(list(tasks), trace_dir=str(Path(out).with_suffix("")))
    uneven = _evaluate(["toy_uneven"])
    noisy = _evaluate(["toy_gen", "toy_mc"], noise=0.3)
    if results is not None and uneven is not None and noisy is not None:
        written = {
            "table": make_table(results) + make_table(results, "groups"),
            "results": results["results"],
            "block": results["config"]["early_exit"],
            "noisy": make_table(noisy),
            "uneven": [uneven["results"]["toy_uneven"], uneven["config"]["early_exit"]],
        }
        Path(out).write_text(json.dumps(written))
    torch.distributed.destroy_process_group()


def _evaluate(tasks: list[str], **settings: Any) -> Any:
    toys = str(Path(__file__).parent / "toys")
    return simple_evaluate(
        model=toy_model.ToyExits(**settings),
        tasks=tasks,
        task_manager=TaskManager(include_path=toys, include_defaults=False),
        bootstrap_iters=1,
        confirm_run_unsafe_code=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
