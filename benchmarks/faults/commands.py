"""The commands that are killed, each on a random checkpoint of four layers, and their outcomes.

An outcome is the result proper of a command: the numbers of a run, of each of a sweep's points, the
weights of trained heads, a certificate, a report's table. Times and paths are no part of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TASK = "dynamax_coqa_sample"
CHOICES = "dynamax_truthfulqa_mc1_sample"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command works.

    Attributes:
        checkpoint: of the model; only read.
        data: prompts to train on; only read.
        choices: questions to certify on; only read.
        run: a results folder of an earlier run with traces, for the report; only read.
        out: what the command writes; the series kills it there again and again.
    """

    checkpoint: Path
    data: Path
    choices: Path
    run: Path
    out: Path


@dataclass(frozen=True, slots=True)
class Killed:
    """A command of the series.

    Attributes:
        start: runs it to its end, in this process.
        outcome: reads its result from its folder.
        refusal: words with which it declines to start where it has finished already, as after a
            kill between its last file and its end.
    """

    start: Callable[[Place], None]
    outcome: Callable[[Path], Any]
    refusal: str | None = None


def _own_tasks_alone() -> str:
    """Leaves lm-eval's thousands of tasks unread; returns the folder of the package's."""
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    from dynamax_lm.harness.plugin.task_folder import TASKS

    lm_eval.tasks.TaskManager = functools.partial(  # type: ignore[misc, assignment]
        TaskManager, include_defaults=False
    )
    return str(TASKS)


def _asked(place: Place, *tasks: str, model_args: str = "", batch: int = 2) -> list[str]:
    arguments = f"pretrained={place.checkpoint},max_length=400{model_args}"
    return [
        *("--model", "dynamax-mistral", "--model_args", arguments, "--tasks", ",".join(tasks)),
        *("--include_path", _own_tasks_alone(), "--batch_size", str(batch)),
        *("--device", "cpu"),
    ]


def evaluate(place: Place) -> None:
    """``lm_eval`` with a response cache, traces and samples."""
    import sys

    from lm_eval._cli import HarnessCLI

    traces = f",threshold=0.3,trace_dir={place.out / 'traces'}"
    asked = _asked(place, TASK, CHOICES, model_args=traces)
    asked += ["--use_cache", str(place.out / "answers"), "--gen_kwargs", "max_gen_toks=8"]
    asked += ["--limit", "6", "--output_path", str(place.out / "results"), "--log_samples"]
    place.out.mkdir(parents=True, exist_ok=True)
    sys.argv = ["in-process", "run", *asked]
    parser = HarnessCLI()
    parser.execute(parser.parse_args())


def _numbers(results: dict[str, Any]) -> dict[str, Any]:
    return {
        task: {
            name: value
            for name, value in metrics.items()
            if "," in name and isinstance(value, float)
        }
        for task, metrics in sorted(results["results"].items())
    }


def _newest(files: Iterable[Path]) -> Path:
    return max(files, key=lambda file: file.stat().st_mtime_ns)


def evaluated(out: Path) -> Any:
    """The numbers of the newest results file."""
    newest = _newest((out / "results").rglob("results_*.json"))
    return _numbers(json.loads(newest.read_text("utf-8")))


def sweep(place: Place) -> None:
    """Four thresholds."""
    from dynamax_lm.sweep.__main__ import main

    asked = [*_asked(place, TASK), "--limit", "6", "--gen_kwargs", "max_gen_toks=8"]
    main([*asked, "--thresholds", "0.1,0.2,0.3,0.5", "--output_path", str(place.out)])


def swept(out: Path) -> Any:
    """The numbers of every point, in the table's order."""
    points = (json.loads(file.read_text("utf-8")) for file in out.rglob("results_*.json"))
    return sorted(
        json.dumps([point["config"]["early_exit"]["settings"], _numbers(point)], sort_keys=True)
        for point in points
    )


def train(place: Place) -> None:
    """Heads on the model's own answers, with hidden states kept on disk."""
    from dynamax_lm.heads.train.__main__ import main

    main(
        [
            *("--model", "dynamax-mistral"),
            *("--model_args", f"pretrained={place.checkpoint},dtype=float32"),
            *("--data", str(place.data), "--output_path", str(place.out), "--max_steps", "12"),
            *("--batch_size", "2", "--window", "24", "--held_out", "0.3", "--save_every", "2"),
            *("--log_every", "1", "--calibration_tokens", "300", "--width", "8", "--cache"),
            *("--answers", "model", "--prompts", "20", "--max_gen_toks", "8", "--head", "ffn"),
        ]
    )


def trained(out: Path) -> Any:
    """The digest of the weights, and the log."""
    weights = (out / "model.safetensors").read_bytes()
    return [hashlib.sha256(weights).hexdigest(), (out / "log.jsonl").read_text("utf-8")]


def certify(place: Place) -> None:
    """A threshold whose loss of agreement is under a loose risk."""
    from dynamax_lm.certify.__main__ import _main

    asked = [*_asked(place, CHOICES, batch=32), "--metric", "agreement", "--risk", "0.5"]
    asked += ["--data", str(place.choices), "--thresholds", "0.9,0.2"]
    _main([*asked, "--delta", "0.2", "--output_path", str(place.out)])


def certified(out: Path) -> Any:
    """The certificate without its date, and without the seal, which covers the date."""
    (file,) = out.rglob("certificate*.json")
    found = json.loads(file.read_text("utf-8"))
    return {name: value for name, value in sorted(found.items()) if name not in {"date", "seal"}}


def report(place: Place) -> None:
    """Pages and tables of an earlier run."""
    from dynamax_lm.report.__main__ import main

    main([str(place.run), "--output_path", str(place.out)])


def reported(out: Path) -> Any:
    """The table, and the names of the pages."""
    tables = {file.name: file.read_text("utf-8") for file in sorted(out.glob("leaderboard*.csv"))}
    return [tables, sorted(str(file.relative_to(out)) for file in out.rglob("*.html"))]


COMMANDS: dict[str, Killed] = {
    "evaluate": Killed(evaluate, evaluated),
    "sweep": Killed(sweep, swept),
    "train": Killed(train, trained, "holds finished heads"),
    "certify": Killed(certify, certified),
    "report": Killed(report, reported),
}
"""By its name on the command line."""
