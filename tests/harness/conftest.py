"""Runs lm-eval on the toys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_model
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

TOYS = Path(__file__).parent / "toys"

Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def evaluate() -> Evaluate:
    """``evaluate(*tasks, model=..., **options of simple_evaluate)``."""
    manager = TaskManager(include_path=str(TOYS), include_defaults=False)

    def run(*tasks: str, model: Any = None, **options: Any) -> dict[str, Any]:
        options.setdefault("bootstrap_iters", 10)
        results = simple_evaluate(
            model=model or toy_model.ToyExits(),
            tasks=list(tasks),
            task_manager=manager,
            **options,
        )
        assert results is not None
        return dict(results)

    return run


@pytest.fixture(autouse=True, scope="module")
def _fast() -> Iterator[None]:
    """One process for bootstraps, where lm-eval starts one a core, and no look at the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISABLE_MULTIPROC", "1")
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        patch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)
        yield
