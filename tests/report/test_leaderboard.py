"""Which row is held against which."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.tables import rival_text

ONE = {"gen": GENERATION}


def test_a_row_is_held_against_its_own_full_depth(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    (one,) = build(load([tmp_path])).comparisons
    table = made.data()["results"]["gen"]
    assert one.difference is not None
    gap = table["em,none"] - table["full_depth_em,none"]
    assert abs(one.difference.mean - gap) < 1e-12


def test_a_baseline_is_held_against_every_row_or_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(tasks=ONE))
    write_run(tmp_path / "b", Plan(tasks=ONE, threshold=0.9, gain=1.0))
    write_run(tmp_path / "c", Plan(tasks=ONE, threshold=0.9, few_shot=5))
    board = build(load([tmp_path / "a"]), load([tmp_path / "b", tmp_path / "c"]))
    against = [one for one in board.comparisons if "own full depth" not in one.against]
    assert [one.difference is None for one in against] == [bool(one.reason) for one in against]
    assert sorted(one.reason for one in against) == ["", "other few-shot: 0 against 5"]


def _verdict(folder: Path, gain: float) -> str:
    """Of a dynamic setting whose every document is ``gain`` better than both static depths'."""
    write_run(folder / "a", Plan(seed=4, tasks=ONE, documents=12, gain=gain))
    for layer in (1, 7):
        settings = {"exit_layers": [layer], "threshold": 0}
        write_run(folder / str(layer), Plan(seed=4, tasks=ONE, documents=12, settings=settings))
    board = build(load([folder]))
    (entry,) = (entry for entry in board.entries if entry.row.kind == "dynamic")
    assert entry.rival is not None
    assert entry.rival.paired
    return entry.rival.verdict


def test_a_verdict_goes_by_the_paired_intervals(tmp_path: Path) -> None:
    """The runs differ in agreement by chance alone, and in the metric by the gain."""
    assert _verdict(tmp_path / "more", 50.0) == "beats"
    assert _verdict(tmp_path / "less", -50.0) == "does not beat"
    assert _verdict(tmp_path / "same", 0.0) in {"not distinguishable", "ties"}


def test_without_samples_a_verdict_goes_by_the_means_and_says_so(tmp_path: Path) -> None:
    for name in ("a", "1", "7"):
        settings = {} if name == "a" else {"exit_layers": [int(name)], "threshold": 0}
        made = write_run(tmp_path / name, Plan(seed=4, tasks=ONE, settings=settings))
        made.samples["gen"].unlink()
    (entry,) = (e for e in build(load([tmp_path])).entries if e.row.kind == "dynamic")
    assert entry.rival is not None
    assert not entry.rival.paired
    assert "by means alone" in rival_text(entry)


@pytest.mark.parametrize("other", [Plan(few_shot=5), Plan(version=2.0), Plan(documents=4)])
def test_runs_that_were_not_asked_the_same_stand_apart_with_the_reason(
    tmp_path: Path, other: Plan
) -> None:
    other.threshold = 0.9
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", other)
    apart = build(load([tmp_path])).apart
    assert [one.task for one in apart] == ["gen", "mc"], "metrics of a task are told once"
    assert all(one.reason.startswith("other ") for one in apart)
    assert all(one.settings == "1 setting against 1 setting" for one in apart)


def test_without_a_reference_a_plain_run_stands_in(tmp_path: Path) -> None:
    made = write_run(tmp_path / "a", Plan(tasks=ONE))
    made.results.write_text(made.results.read_text().replace("full_depth_em", "left_out"))
    write_plain(tmp_path / "b", Plan(tasks=ONE))
    comparisons = build(load([tmp_path])).comparisons
    assert [one.against for one in comparisons if one.row.key.metric == "em"] == [
        "org/model: full depth (hf)"
    ]
