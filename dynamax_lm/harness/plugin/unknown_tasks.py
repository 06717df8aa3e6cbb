"""Names of tasks that lm-eval does not find, each with the nearest that it knows.

lm-eval raises a ``ValueError`` that lists the names alone.
"""

from __future__ import annotations

from contextlib import nullcontext
from difflib import get_close_matches
from traceback import walk_tb
from typing import Any

from dynamax_lm.harness.plugin.task_folder import without_stock_tasks

_NOT_FOUND = "Tasks not found: "
"""How the message of lm-eval's ``ValueError`` begins."""


def is_unknown_tasks(error: BaseException) -> bool:
    """Whether ``error`` is lm-eval's about tasks that it did not find."""
    return isinstance(error, ValueError) and str(error).startswith(_NOT_FOUND)


def unknown_tasks_line(error: BaseException) -> str:
    """One line for such an error: the unknown names, and what each was perhaps meant to be.

    This package's tasks, and those of ``--include_path``, are looked through first, since reading
    lm-eval's takes seconds.
    """
    names = str(error).removeprefix(_NOT_FOUND).split(", ")
    near = _nearest(names, _include_path(error))
    shown = [f"{name} (did you mean {near[name]}?)" if name in near else name for name in names]
    return f"{_NOT_FOUND}{', '.join(one or repr(one) for one in shown)}; lm_eval ls tasks lists all"


def _include_path(error: BaseException) -> Any:
    """That of the configuration whose tasks were not found, which raised the error; or ``None``."""
    for frame, _ in walk_tb(error.__traceback__):
        config = frame.f_locals.get("self")
        if (path := getattr(config, "include_path", None)) is not None:
            return path
    return None


def _nearest(names: list[str], include_path: Any) -> dict[str, str]:
    from lm_eval.tasks import TaskManager

    found: dict[str, str] = {}
    for few, least in ((without_stock_tasks, 0.8), (nullcontext, 0.6)):
        if missing := [name for name in names if name not in found]:
            with few():
                known = TaskManager(include_path=include_path).all_tasks
            near = {name: get_close_matches(name, known, n=1, cutoff=least) for name in missing}
            found |= {name: tasks[0] for name, tasks in near.items() if tasks}
    return found
