"""What happens once lm-eval is there: our models, our tasks, and what stock tasks lack.

Owns the registrations. It does not know when it is called, nor anything of models or tasks
themselves.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

MODELS = {
    "dynamax-mistral": "dynamax_lm.models.lm:DynamaxMistral",
    "dynamax-mamba": "dynamax_lm.models.lm:DynamaxMamba",
}
"""Name and defining class of each model; lm-eval imports the class when it is asked for."""

TASKS = Path(__file__).resolve().parents[2] / "tasks"
"""The folder of our task files."""

_MARK = "_dynamax_lm"


def connect(name: str) -> None:
    """Do what the import of ``name`` makes possible.

    Args:
        name: ``lm_eval.models`` or ``lm_eval.tasks``, fully imported.
    """
    supply_squad_metrics()
    if name == "lm_eval.models":
        register_models()
    elif name == "lm_eval.tasks":
        teach_yaml_tags()
        add_tasks()


def register_models() -> None:
    """Name our models in lm-eval's registry, unless its own plugin scan already has."""
    from lm_eval.api.registry import model_registry

    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def add_tasks() -> None:
    """Let every ``TaskManager`` that has the stock tasks see ours too."""
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
        if include_defaults:  # later folders win, so a user's own come after ours
            theirs = list(given) if isinstance(given, (list, tuple)) else [given] * bool(given)
            include_path = [TASKS, *theirs]
        original(self, verbosity, include_path, include_defaults, *args, **kwargs)
        self.include_path = given

    setattr(init, _MARK, True)
    TaskManager.__init__ = init


def teach_yaml_tags() -> None:
    """Let task files name stock files and our records, wherever the two packages lie.

    lm-eval's ``include`` and ``data_files`` know only paths that are absolute, or relative to the
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
    """``!sample coqa/sample.jsonl``: records among our tasks."""
    return str(TASKS / loader.construct_scalar(node))


def supply_squad_metrics() -> None:
    """Stand in for a module that stock ``coqa`` imports and newer transformers no longer have."""
    from dynamax_lm.harness.plugin.squad_metrics_shim import LastResort

    if not any(isinstance(finder, LastResort) for finder in sys.meta_path):
        sys.meta_path.append(LastResort())
