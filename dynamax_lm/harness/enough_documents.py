"""Refuses tasks that leave a process without a document, on every process, before answers.

lm-eval ends the process that has none with a traceback; the others wait for it, and fail at the
connection. One process without documents is an empty data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynamax_lm.common.errors import SettingError

_EMPTY = "did not find any docs"
"""In the message of lm-eval's ``ValueError``."""


def build_where_enough(build: Callable[[], Any], task: Any, options: Mapping[str, Any]) -> Any:
    """Builds a task's requests.

    Args:
        build: builds them.
        task: lm-eval's task object.
        options: keyword arguments of ``Task.build_all_requests``.

    Raises:
        SettingError: the task has fewer documents than there are processes.
    """
    processes = options.get("world_size") or 1
    try:
        built = build()
    except ValueError as error:
        if _EMPTY not in str(error):
            raise
        raise _too_few(task, _count(task, options), processes) from error
    # Documents go round the processes, so that one which has two leaves none without any.
    if processes > 1 and len({instance.doc_id for instance in task.instances}) < 2:
        documents = _count(task, options)
        if documents < processes:
            raise _too_few(task, documents, processes)
    return built


def _count(task: Any, options: Mapping[str, Any]) -> int:
    """How many documents all processes share."""
    samples, limit = options.get("samples"), options.get("limit")
    if samples is not None:
        return len(samples)
    known = len(task.eval_docs)
    return known if limit is None else min(known, int(limit))


def _too_few(task: Any, documents: int, processes: int) -> SettingError:
    if not documents:
        return SettingError(f"{task.task_name}: there are no documents to evaluate")
    return SettingError(
        f"{task.task_name}: {documents} documents for {processes} processes, and each needs one: "
        f"start at most {documents} processes, or raise --limit"
    )
