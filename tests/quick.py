"""What makes lm-eval's own commands quick enough for a test, and what they have written."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval._cli import HarnessCLI
from lm_eval.tasks import TaskManager


def only_toys(patch: pytest.MonkeyPatch) -> None:
    """Leave lm-eval's thousands of tasks unread."""
    few = functools.partial(TaskManager, include_defaults=False)
    patch.setattr("lm_eval.tasks.TaskManager", few)


def only_toys_alone(patch: pytest.MonkeyPatch) -> None:
    """The same, in one process for bootstraps, and with no look at the machine."""
    only_toys(patch)
    patch.setenv("DISABLE_MULTIPROC", "1")
    patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    patch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)


def run_lm_eval(patch: pytest.MonkeyPatch, *arguments: str) -> None:
    """``lm_eval run`` in this process."""
    # Not by lm-eval's name: as a person's command it would install its hook for errors.
    patch.setattr("sys.argv", ["in-process", "run", *arguments])
    parser = HarnessCLI()
    parser.execute(parser.parse_args())


def results_in(folder: Path) -> dict[str, Any]:
    """The one results file that a run has written."""
    (file,) = folder.glob("results_*.json")
    return dict(json.loads(file.read_text()))
