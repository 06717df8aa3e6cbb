"""A sweep's points are separate runs in everything but the time they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from tests.quick import results_in
from tests.sweep.sweeps import TASKS, TOYS, points, samples_in, sweep

pytestmark = pytest.mark.usefixtures("toys_alone")


def separate_run(model: str, model_args: dict[str, Any], output: Path) -> Path:
    """What ``lm_eval`` does with the same options (``lm_eval/_cli/run.py``)."""
    tracker = EvaluationTracker(output_path=str(output))
    results = simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=list(TASKS),
        task_manager=TaskManager(
            include_path=TOYS, include_defaults=False, metadata=dict(model_args)
        ),
        limit=3,
        batch_size="2",
        device="cpu",
        evaluation_tracker=tracker,
        fewshot_as_multiturn=None,
        gen_kwargs={"max_gen_toks": 12},
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    (folder,) = output.iterdir()
    return folder


def comparable(results: dict[str, Any]) -> dict[str, Any]:
    for name in ("date", "total_evaluation_time_seconds"):
        del results[name]
    block = results["config"]["early_exit"]
    del block["seconds"]
    block.pop("rows_in_flight", None)  # of a run by itself; a sweep's rows are those of its batches
    for totals in (block, *block["tasks"].values()):
        del totals["agreement_noise"]  # of a derived score there is no second pass to measure it
    return results


GRIDS = {
    "recompute": ("0.02,0.05,1", {"derived", "partly"}),
    "propagate": ("0.05,0.2,1", {"rows"}),
    "copy_kv": ("0.05,0.2", {"rows"}),
    "freeze": ("0.05,0.2", {"rows"}),
}
"""Thresholds for a skipped state, and how the points then come about."""


@pytest.mark.parametrize(
    ("kind", "skipped"),
    [
        ("mistral", "recompute"),
        ("mamba2", "recompute"),
        ("mistral", "propagate"),
        ("mamba2", "propagate"),
        ("mistral", "copy_kv"),
        ("mamba2", "freeze"),
    ],
)
def test_a_point_that_shares_its_passes_equals_a_separate_run(
    kind: str,
    skipped: str,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same answers, depths and bills; log-probabilities to the tolerance of float32."""
    thresholds, expected = GRIDS[skipped]
    grid = ("--thresholds", thresholds, "--vary", f"skipped_state={skipped}")
    sweep(checkpoints[kind], tmp_path / "sweep", *grid, kind=kind)
    printed = capsys.readouterr()
    many = f"under {len(points(tmp_path / 'sweep'))} settings: under a minute"
    assert printed.err.count(many) == 3, "once for each type of request, by the first point"
    depths, ways = set(), set()
    for name, folder in points(tmp_path / "sweep").items():
        own = dict(pair.split("=") for pair in name.split(","))
        args = {"pretrained": str(checkpoints[kind]), "dtype": "float32"}
        args |= own | {"threshold": float(own["threshold"])}
        model = "dynamax-mamba" if kind == "mamba2" else "dynamax-mistral"
        separate = separate_run(model, args, tmp_path / name)
        ours, other = comparable(results_in(folder)), comparable(results_in(separate))
        assert_close(ours, other)
        assert ours["config"]["early_exit"] == other["config"]["early_exit"], "depths and bills"
        for task, lines in samples_in(folder).items():
            assert_close(_rows(lines), _rows(samples_in(separate)[task]))
        note = json.loads((folder / "point.json").read_text())
        assert note["requests"]["run"] == 0 or skipped != "recompute", "long windows run alone"
        assert (note["how"] == "partly") == bool(note["requests"]["partly"])
        assert f"{name}: {note['how']}, " in printed.err
        ways.add(note["how"])
        depths.add(ours["results"]["toy_gen"]["layers_used,clean"])
    assert len(depths) > 1, "the settings must differ for this to mean anything"
    assert ways == expected


def _rows(lines: str) -> list[dict[str, Any]]:
    """Without the digests of responses, which a last bit changes."""
    rows = [json.loads(line) for line in lines.splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith(("_hash", "_noise"))} for row in rows]


def assert_close(ours: Any, other: Any) -> None:
    """Equal but for the last bits of numbers, which lm-eval writes as text in samples."""
    if isinstance(ours, dict):
        assert ours.keys() == other.keys()
        for key in ours:
            assert_close(ours[key], other[key])
    elif isinstance(ours, list):
        assert len(ours) == len(other)
        for a, b in zip(ours, other, strict=True):
            assert_close(a, b)
    elif ours != other:
        assert float(ours) == pytest.approx(float(other), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_point_run_by_itself_equals_a_separate_run_to_the_last_bit(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    vary = "skipped_state=propagate,freeze" if kind == "mamba2" else "skipped_state=copy_kv"
    swept = ("--thresholds", "0.05:0.2:0.15", "--vary", vary, "--tokens_at_once", "0")
    sweep(checkpoints[kind], tmp_path / "sweep", *swept, kind=kind)
    found = points(tmp_path / "sweep")
    assert len(found) == (4 if kind == "mamba2" else 2)
    depths = set()
    for name, folder in found.items():
        own = dict(pair.split("=") for pair in name.split(","))
        args = {"pretrained": str(checkpoints[kind]), "dtype": "float32"}
        args |= own | {"threshold": float(own["threshold"])}
        model = "dynamax-mamba" if kind == "mamba2" else "dynamax-mistral"
        separate = separate_run(model, args, tmp_path / name)
        ours = comparable(results_in(folder))
        assert ours == comparable(results_in(separate))
        assert samples_in(folder) == samples_in(separate)
        assert len(samples_in(folder)) == len(TASKS)
        depths.add(ours["results"]["toy_gen"]["layers_used,clean"])
    assert len(depths) > 1, "the settings must differ for this to mean anything"


def test_single_points_are_separate_runs_whatever_came_before(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    single: dict[str, dict[str, Any]] = {
        "mode=full": {"mode": "full"},
        "exit_rule=fixed_depth,exit_layers=2": {"exit_rule": "fixed_depth", "exit_layers": 2},
        "threshold=0.05": {"threshold": 0.05},
    }
    options = [part for name in list(single)[:2] for part in ("--point", name)]
    sweep(checkpoints["mistral"], tmp_path / "sweep", "--thresholds", "0.02", *options)
    sweep(checkpoints["mistral"], tmp_path / "sweep", *options, "--point", "threshold=0.05")
    found = points(tmp_path / "sweep")
    assert set(found) == {"threshold=0.02", *single}
    for name, own in single.items():
        args = {"pretrained": str(checkpoints["mistral"]), "dtype": "float32"} | own
        separate = separate_run("dynamax-mistral", args, tmp_path / name)
        ours, other = comparable(results_in(found[name])), comparable(results_in(separate))
        assert ours["config"]["early_exit"] == other["config"]["early_exit"]
        assert_close(ours, other)


def test_an_argument_that_needs_loading_is_swept_too(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    grid = ("--vary", "max_length=48,64", "--thresholds", "0.2", "--no-log_samples")
    sweep(checkpoints["mistral"], tmp_path, *grid)
    found = points(tmp_path)
    lengths = {name: results_in(folder)["max_length"] for name, folder in found.items()}
    assert lengths == {"max_length=48,threshold=0.2": 48, "max_length=64,threshold=0.2": 64}
    assert not any(samples_in(folder) for folder in found.values())
