"""Registrations after lm-eval is imported: models, tasks, and a module that stock tasks lack."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dynamax_lm.harness.plugin.errors import install_one_line_errors, is_lm_eval
from dynamax_lm.harness.plugin.task_folder import TASKS, stock_tasks_too

MODELS = {
    "dynamax-mistral": "dynamax_lm.models.lm:DynamaxMistral",
    "dynamax-mamba": "dynamax_lm.models.lm:DynamaxMamba",
    "dynamax": "dynamax_lm.models.lm:Dynamax",
}
"""Name and defining class of each model; lm-eval imports the class at its first use."""

_MARK = "_dynamax_lm"


def connect(name: str) -> None:
    """Make the registrations that the import of ``name`` enables.

    Args:
        name: ``lm_eval.models`` or ``lm_eval.tasks``, fully imported.
    """
    supply_squad_metrics()
    if name == "lm_eval.models":
        register_models()
    elif name == "lm_eval.tasks":
        teach_yaml_tags()
        add_tasks()
        if is_lm_eval() and _asked_for(MODELS):
            install_one_line_errors()  # lm-eval looks for the tasks before it makes the model


def _asked_for(models: Collection[str]) -> bool:
    """Whether the process's command line, or its configuration file, names one of ``models``."""
    import yaml

    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--model", "-M")
    parser.add_argument("--config", "-C")
    try:
        given = parser.parse_known_args(sys.argv[1:])[0]
        read = yaml.safe_load(Path(given.config).read_text("utf-8")) if given.config else {}
        return (given.model or read.get("model")) in models
    except (argparse.ArgumentError, OSError, ValueError, AttributeError, yaml.YAMLError):
        return False  # lm-eval tells


def register_models() -> None:
    """Register the models with lm-eval, unless its own plugin scan has."""
    from lm_eval.api.registry import model_registry

    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def add_tasks() -> None:
    """Add this package's tasks to every ``TaskManager`` that has the stock tasks."""
    from lm_eval.tasks.manager import TaskManager

    original = TaskManager.__init__
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def init(
        self: Any,
        verbosity: str | None = None,
        include_path: Any = None,
        include_defaults: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        given = include_path
        if include_defaults:  # later folders take precedence, so a user's own come last
            include_defaults = stock_tasks_too()
            theirs = list(given) if isinstance(given, (list, tuple)) else [given] * bool(given)
            include_path = [TASKS, *theirs]
        original(self, verbosity, include_path, include_defaults, *args, **kwargs)
        self.include_path = given

    setattr(init, _MARK, True)
    TaskManager.__init__ = init


def teach_yaml_tags() -> None:
    """Let task files name stock files and this package's samples, independent of their paths.

    lm-eval's ``include`` and ``data_files`` take only paths that are absolute, or relative to the
    including file or the working directory.
    """
    import yaml
    from lm_eval.tasks import _yaml_loader

    if hasattr(_yaml_loader._Base, _MARK):
        return
    # A class of our own: constructors added to yaml's would hold in the whole process.
    base = type("Base", (_yaml_loader._Base,), {_MARK: True})
    yaml.add_constructor("!stock_task", _stock_task, Loader=base)
    yaml.add_constructor("!sample", _sample, Loader=base)
    _yaml_loader._Base = base


def _stock_task(loader: Any, node: Any) -> str:
    """``!stock_task coqa/default.yaml``: a file among lm-eval's tasks."""
    import lm_eval.tasks

    return str(Path(lm_eval.tasks.__file__).parent / loader.construct_scalar(node))


def _sample(loader: Any, node: Any) -> str:
    """``!sample coqa/sample.jsonl``: samples among this package's tasks."""
    return str(TASKS / loader.construct_scalar(node))


def supply_squad_metrics() -> None:
    """Provide a module that stock ``coqa`` imports and newer transformers no longer have."""
    from dynamax_lm.harness.plugin.squad_metrics_shim import LastResort

    if not any(isinstance(finder, LastResort) for finder in sys.meta_path):
        sys.meta_path.append(LastResort())
