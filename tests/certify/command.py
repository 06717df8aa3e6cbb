"""The certification's command on a random checkpoint and toy tasks, for the tests beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamax_lm.certify.cli import parser
from dynamax_lm.certify.tasks import load_tasks
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.harness.command_line import Command

TOYS = str(Path(__file__).parent.parent / "harness" / "toys")
DOCUMENTS = 300

Run = Callable[..., Certificate]


def sums(count: int) -> list[dict[str, Any]]:
    """Toy records in the toy tasks' columns."""
    return [
        {"question": f"{n}+{n % 7}", "answer": str(n), "choices": [str(n), "no"], "gold": 0}
        for n in range(count)
    ]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def written(folder: Path) -> Certificate:
    """The one certificate below ``folder``."""
    (path,) = folder.glob("out/*/certificate.json")
    return Certificate.loads(path.read_text())


def task_over(path: Path) -> Any:
    """The toy task over the records of ``path``."""
    options = ["--model", "dynamax-mamba", "--tasks", "toy_gen", "--include_path", TOYS]
    (task,) = load_tasks(Command(parser().parse_args(options)), {"toy_gen": path})
    return task


def no_model(self: Any, *args: Any, **kwargs: Any) -> None:
    """In place of a model's ``__init__``: nothing loads."""
    raise AssertionError("a model was asked for")
