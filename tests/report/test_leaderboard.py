"""Which row is held against which."""

from __future__ import annotations

from pathlib import Path

from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load

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


def test_without_a_reference_a_plain_run_stands_in(tmp_path: Path) -> None:
    made = write_run(tmp_path / "a", Plan(tasks=ONE))
    made.results.write_text(made.results.read_text().replace("full_depth_em", "left_out"))
    write_plain(tmp_path / "b", Plan(tasks=ONE))
    comparisons = build(load([tmp_path])).comparisons
    assert [one.against for one in comparisons if one.row.key.metric == "em"] == [
        "org/model: full depth (hf)"
    ]
