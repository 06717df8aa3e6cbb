"""Parts of lm-eval's tasks that have no public name there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any


def filters_of(task: Any) -> Sequence[Any]:
    """The task's filter ensembles, in order; each has a ``name`` and an ``apply``."""
    filters: Sequence[Any] = task._filters
    return filters


def metric_names(task: Any) -> Collection[str]:
    """The metrics that the task's configuration lists; none for a task that is a class."""
    functions: Collection[str] = getattr(task, "_metric_fn_list", None) or {}
    return functions


def load_task_file(path: Path) -> dict[str, Any]:
    """A task file as lm-eval reads it, with its includes and functions resolved."""
    from lm_eval.tasks._yaml_loader import load_yaml

    from dynamax_lm.harness.plugin.bridge import supply_squad_metrics, teach_yaml_tags

    supply_squad_metrics()
    teach_yaml_tags()
    config: dict[str, Any] = load_yaml(path)
    return config
