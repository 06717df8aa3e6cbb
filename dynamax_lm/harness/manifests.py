"""Each run of ours leaves a manifest of the files that it wrote, beside its results.

Owns when that is: lm-eval writes the results first and then the samples, a task at a time, so the
manifest follows the last task. A file that lm-eval could not write leaves the run without one.
Does not know what the files hold, or who reads the manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamax_lm import __version__
from dynamax_lm.common.manifest import Manifest, manifest_beside
from dynamax_lm.common.tracefile import trace_files

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings
_PENDING = "_early_exit_manifest"


@dataclass
class _Pending:
    """What is known of a run whose files are being written.

    Attributes:
        fingerprint: the run's.
        trace_dir: its trace folder, or ``None``.
        tasks: all of its tasks.
        sampled: whether samples are logged.
        left: tasks whose samples are still to come.
    """

    fingerprint: str
    trace_dir: str | None
    tasks: list[str]
    sampled: bool
    left: set[str]


def save_run(tracker: Any, results: dict[str, Any], samples: Mapping[str, Any] | None) -> None:
    """Have lm-eval write a run's files as its own command line does.

    Args:
        tracker: the ``EvaluationTracker`` of the evaluation.
        results: of ``simple_evaluate``, without samples.
        samples: by task, or ``None`` to leave them out.
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
    if pending is not None and not pending.left:
        _write(tracker, pending)
    return done


def around_save_samples(original: Callable[..., Any], tracker: Any, *args: Any, **kw: Any) -> Any:
    """Wraps ``EvaluationTracker.save_results_samples``."""
    done = original(tracker, *args, **kw)
    pending: _Pending | None = getattr(tracker, _PENDING, None)
    task = kw.get("task_name", args[0] if args else None)
    if pending is not None and task in pending.left:
        pending.left.discard(task)
        if not pending.left:
            _write(tracker, pending)
    return done


def _pending(results: Any, samples: Mapping[str, Any] | None) -> _Pending | None:
    """A run of ours, or ``None`` for that of another model."""
    block = ((results or {}).get("config") or {}).get("early_exit")
    if not block:
        return None
    tasks = list(results.get("configs") or {})
    trace_dir = block["settings"].get("trace_dir")
    sampled = samples is not None
    left = set(tasks) if sampled else set()
    return _Pending(block["fingerprint"], trace_dir, tasks, sampled, left)


def _write(tracker: Any, pending: _Pending) -> None:
    """Writes the manifest; without a folder of results, or with a file missing, there is none."""
    stamp = getattr(tracker, "date_id", None)
    if not tracker.output_path or stamp is None:
        return
    path = Path(tracker.output_path)
    if path.suffix == ".json":  # lm-eval's way to name the file itself
        results = path.with_name(f"{path.stem}_{stamp}.json")
    else:
        name = str(tracker.general_config_tracker.model_name_sanitized)
        results = path / name / f"results_{stamp}.json"
    target = manifest_beside(results)
    if target is None:
        return
    samples = []
    if pending.sampled:
        samples = [results.with_name(f"samples_{task}_{stamp}.jsonl") for task in pending.tasks]
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
    except OSError as error:  # lm-eval goes on where it could not write a file, and so does this
        _log.warning("%s is not written: %s", target, error)
