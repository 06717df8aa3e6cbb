"""One evaluation by lm-eval, as the benchmarks time it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def evaluate(lm: Any, tasks: Sequence[str], manager: Any, **options: Any) -> dict[str, Any]:
    """The results of a loaded model, without bootstrap and without lm-eval's remarks.

    Args:
        lm: a model of lm-eval.
        tasks: their names.
        manager: lm-eval's ``TaskManager``, which knows them.
        **options: of ``simple_evaluate``, in addition or in place of these.
    """
    from lm_eval import simple_evaluate

    given: dict[str, Any] = {"bootstrap_iters": 0, "verbosity": "ERROR"} | options
    results: dict[str, Any] | None = simple_evaluate(
        lm, tasks=list(tasks), task_manager=manager, **given
    )
    assert results is not None, "only further ranks have none"
    return results
