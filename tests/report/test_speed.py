"""Tokens per second: from the run's own seconds, and never from passes shared with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run

from dynamax_lm.report.load import load
from dynamax_lm.report.speed import tokens_per_second


def _measured(folder: Path, seconds: dict[str, Any] | None, how: str | None = None) -> float | None:
    made = write_run(folder)
    data = made.data()
    if seconds is not None:
        data["config"]["early_exit"]["seconds"] = seconds
    made.change(data)
    if how is not None:
        (made.results.parent / "point.json").write_text(json.dumps({"how": how}))
    (run,) = load([folder]).runs
    found = tokens_per_second(run)
    if found is not None:
        lines = [line for task in run.tasks() for line in (load([folder]).trace(run, task) or [])]
        assert found == pytest.approx(len(lines) / seconds["answer"])  # type: ignore[index]
    return found


def test_tokens_of_all_tasks_by_the_seconds_of_answers(tmp_path: Path) -> None:
    seconds = {"prompt": 5.0, "answer": 2.0, "reference": 7.0}
    assert _measured(tmp_path / "alone", seconds) is not None
    assert _measured(tmp_path / "point", seconds, "run") is not None


@pytest.mark.parametrize("how", ["rows", "derived", "partly"])
def test_points_that_shared_passes_have_none(tmp_path: Path, how: str) -> None:
    assert _measured(tmp_path, {"answer": 2.0}, how) is None


@pytest.mark.parametrize("seconds", [None, {}, {"answer": 0.0}, {"answer": None}])
def test_without_seconds_there_is_none(tmp_path: Path, seconds: dict[str, Any] | None) -> None:
    assert _measured(tmp_path, seconds) is None
