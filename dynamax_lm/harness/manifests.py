"""Writes a manifest of the files of each run of this package's models, next to its results.

lm-eval writes the results first and then the samples, one task at a time, so the manifest is
written after the last task. lm-eval continues after a file that it could not write; here such a run
ends with an error, after its table was printed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamax_lm import __version__
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.manifest import Manifest, manifest_beside
from dynamax_lm.common.outputs import has_whole_lines, is_whole_json
from dynamax_lm.common.tracefile import trace_files

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings
_PENDING = "_early_exit_manifest"


@dataclass
class _Pending:
    """A run whose files are being written.

    Attributes:
        fingerprint: the run's.
        trace_dir: its trace folder, or ``None``.
        tasks: all of its tasks.
        sampled: whether samples are logged.
        samples: number of logged samples of each task; empty if none are logged.
        unwritten: tasks whose samples are not written yet.
        results: of the run, for its table.
    """

    fingerprint: str
    trace_dir: str | None
    tasks: list[str]
    samples: dict[str, int]
    unwritten: set[str]
    results: dict[str, Any]


def save_run(tracker: Any, results: dict[str, Any], samples: Mapping[str, Any] | None) -> None:
    """Write a run's files through lm-eval, as its own command line does.

    Args:
        tracker: the ``EvaluationTracker`` of the evaluation.
        results: of ``simple_evaluate``, without samples.
        samples: by task, or ``None`` for none.
    """
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"] if samples is not None else ():
        tracker.save_results_samples(task_name=task, samples=(samples or {})[task])


def around_save_results(original: Callable[..., Any], tracker: Any, *args: Any, **kw: Any) -> Any:
    """Wraps ``EvaluationTracker.save_results_aggregated``."""
    results = kw.get("results", args[0] if args else None)
    samples = kw.get("samples", args[1] if len(args) > 1 else None)
    done = original(tracker, *args, **kw)
    pending = _pending(results, samples)
    setattr(tracker, _PENDING, pending)
    if pending is not None and not pending.unwritten:
        _write(tracker, pending)
    return done


def around_save_samples(original: Callable[..., Any], tracker: Any, *args: Any, **kw: Any) -> Any:
    """Wraps ``EvaluationTracker.save_results_samples``."""
    done = original(tracker, *args, **kw)
    pending: _Pending | None = getattr(tracker, _PENDING, None)
    task = kw.get("task_name", args[0] if args else None)
    if pending is not None and task in pending.unwritten:
        pending.unwritten.discard(task)
        if not pending.unwritten:
            _write(tracker, pending)
    return done


def _pending(results: Any, samples: Mapping[str, Any] | None) -> _Pending | None:
    """The run of one of this package's models, or ``None`` for that of another model."""
    block = ((results or {}).get("config") or {}).get("early_exit")
    if not block:
        return None
    tasks = list(results.get("configs") or {})
    trace_dir = block["settings"].get("trace_dir")
    counts = {} if samples is None else {task: len(samples[task]) for task in tasks}
    return _Pending(block["fingerprint"], trace_dir, tasks, counts, set(counts), results)


def _write(tracker: Any, pending: _Pending) -> None:
    """Writes the manifest, unless there is no folder of results.

    Raises:
        SettingError: lm-eval could not write a file whole.
    """
    if not tracker.output_path:
        return
    stamp = getattr(tracker, "date_id", None)
    path = Path(tracker.output_path)
    if path.suffix == ".json":  # lm-eval's way to name the file itself
        results = path.with_name(f"{path.stem}_{stamp}.json")
    else:
        name = str(tracker.general_config_tracker.model_name_sanitized)
        results = path / name / f"results_{stamp}.json"
    samples = {
        results.with_name(f"samples_{task}_{stamp}.jsonl"): count
        for task, count in pending.samples.items()
    }
    damaged = [] if is_whole_json(results) else [results]
    damaged += [file for file, count in samples.items() if not has_whole_lines(file, count)]
    if damaged:
        for file in damaged:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        _tell(pending.results)
        raise SettingError(
            f"--output_path {tracker.output_path}: lm-eval could not write "
            f"{', '.join(file.name for file in damaged)} (is the disk full?); the table above has "
            f"the run's numbers"
        )
    target = manifest_beside(results)
    if target is None:  # the file has another name
        return
    traces = []
    if pending.trace_dir:
        folder = Path(pending.trace_dir)
        traces = [file for task in pending.tasks for file in trace_files(folder, task)]
    try:
        Manifest.of(
            [results, *samples],
            traces,
            version=__version__,
            fingerprint=pending.fingerprint,
        ).write(target)
        _log.info("next: python -m dynamax_lm.report %s --output_path report", path)
    except (
        OSError
    ) as error:  # lm-eval continues after a file that it could not write, and so does this
        _log.warning("%s is not written: %s", target, error)


def _tell(results: dict[str, Any]) -> None:
    """Print the run's table, as lm-eval would afterwards."""
    from lm_eval.utils import make_table

    sys.stdout.write(f"{make_table(results)}\n")
    if "groups" in results:
        sys.stdout.write(f"{make_table(results, 'groups')}\n")
    sys.stdout.flush()
