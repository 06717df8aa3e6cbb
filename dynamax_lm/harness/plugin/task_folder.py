"""This package's tasks, and whether lm-eval's are read beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

TASKS = Path(__file__).resolve().parents[2] / "tasks"
"""The folder of this package's task files."""

_STOCK_TASKS: ContextVar[bool] = ContextVar("_STOCK_TASKS", default=True)


def stock_tasks_too() -> bool:
    """Whether a ``TaskManager`` that is made now reads lm-eval's tasks as well."""
    return _STOCK_TASKS.get()


def only_ours(names: Collection[str]) -> bool:
    """Whether every one of ``names`` is a task or a group in this package's folder."""
    from lm_eval.tasks._index import TaskIndex

    return bool(names) and set(names) <= TaskIndex.build([TASKS]).keys()


@contextmanager
def without_stock_tasks() -> Iterator[None]:
    """A ``TaskManager`` made inside does not read lm-eval's 13,000 task files, which takes long.

    It would be unnecessary if lm-eval looked for the tasks that are asked for.
    """
    token = _STOCK_TASKS.set(False)
    try:
        yield
    finally:
        _STOCK_TASKS.reset(token)


def own_tasks() -> Any:
    """A ``TaskManager`` of this package's tasks alone."""
    from lm_eval.tasks import TaskManager

    with without_stock_tasks():
        return TaskManager()
