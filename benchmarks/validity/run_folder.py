"""The folder of a small evaluation: made, read, written again, and verified.

The run is of the embedded Mistral, with its heads unless settings say otherwise: generation,
multiple choice and a group, with traces and samples.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TASKS = ("dynamax_triviaqa_sample", "dynamax_truthfulqa_mc1_sample")
GROUP = "dynamax_pair"


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "exits": {},
    "lossless": {"mode": "lossless"},
    "look": {"heads": "none", "confidence": "top_prob", "threshold": 0.7, "look": "rank:16"},
    "prompt exit": {"heads": "none", "confidence": "top_prob", "threshold": 0.7, "prompt_exit": 8},
    "rows in flight": {"rows_in_flight": 2},
}
"""Kinds of runs, whose results differ in the fields that they have."""


def make_run(
    folder: Path, settings: Mapping[str, Any] = SETTINGS["exits"], *, limit: int = 2
) -> Path:
    """Results, samples, traces and manifest, as ``lm_eval --log_samples`` writes them.

    Args:
        folder: for all files.
        settings: of ``SETTINGS``, or others of the model.
        limit: documents of each task.

    Returns:
        The results file.
    """
    from lm_eval.tasks import TaskManager

    from dynamax_lm.harness.plugin.task_folder import TASKS as OWN

    group = {
        "group": GROUP,
        "task": list(TASKS),
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "pair.yaml").write_text(json.dumps(group))  # JSON is YAML
        known = TaskManager(include_path=[str(OWN), name], include_defaults=False)
        return logged_run(folder, [GROUP], known, settings, limit=limit)


def logged_run(
    folder: Path, tasks: Sequence[str], known: Any, settings: Mapping[str, Any], *, limit: int
) -> Path:
    """The files of a run of the embedded model, by the two calls of ``lm_eval --log_samples``.

    Args:
        folder: for all files.
        tasks: to evaluate.
        known: lm-eval's ``TaskManager``, which finds them.
        settings: of the model.
        limit: documents of each task.

    Returns:
        The results file.
    """
    from lm_eval import models as _  # noqa: F401 - left out where some model is registered
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    from dynamax_lm.harness.manifests import save_run
    from dynamax_lm.harness.plugin.hook import force

    force()
    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model="dynamax-mistral",
        model_args={"pretrained": "tiny", "trace_dir": str(folder / "traces"), **settings},
        tasks=list(tasks),
        task_manager=known,
        limit=limit,
        batch_size=1 if "rows_in_flight" in settings else 8,
        log_samples=True,
        bootstrap_iters=10,
        evaluation_tracker=tracker,
    )
    assert results is not None
    samples = results.pop("samples")
    save_run(tracker, results, samples)
    (found,) = folder.rglob("results_*.json")
    return found


def remake_manifest(results: Path) -> None:
    """The manifest with the digests of the files as they are now, as a forger would leave it."""
    from dynamax_lm.common.manifest import Manifest, digest_of, manifest_beside

    path = manifest_beside(results)
    assert path is not None
    old = Manifest.read(path)
    traces = results.parent.parent / "traces"
    Manifest(
        old.version,
        old.fingerprint,
        {name: digest_of(results.with_name(name)) for name in old.files},
        {name: digest_of(traces / name) for name in old.traces},
    ).write(path)


def digests_show(results: Path) -> bool:
    """Whether the manifest of a run lists another digest than a file has now."""
    from dynamax_lm.common.manifest import Manifest, digest_of, manifest_beside

    path = manifest_beside(results)
    assert path is not None
    manifest, traces = Manifest.read(path), results.parent.parent / "traces"
    changed = [digest_of(results.with_name(n)) != d for n, d in manifest.files.items()]
    changed += [digest_of(traces / name) != d for name, d in manifest.traces.items()]
    return any(changed)


def shows(folder: Path) -> list[str]:
    """What verification says of a folder; one line where nothing can be read."""
    from dynamax_lm.common.errors import SettingError
    from dynamax_lm.report.load import load
    from dynamax_lm.report.verify import verify

    try:
        library = load([folder])
    except SettingError as error:
        return [str(error)]
    found = verify(library)
    return found.mismatches or ([] if found.checked else ["nothing of ours"])


def read_lines(file: Path) -> list[Any]:
    """The values of a JSONL file, or the one of a JSON file."""
    text = file.read_text(encoding="utf-8")
    return (
        [json.loads(line) for line in text.splitlines()]
        if file.suffix == ".jsonl"
        else [json.loads(text)]
    )


def write_lines(file: Path, lines: Sequence[Any]) -> None:
    """Writes what `read_lines` read."""
    if file.suffix == ".jsonl":
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    else:
        text = json.dumps(lines[0], ensure_ascii=False)
    file.write_text(text, encoding="utf-8")
