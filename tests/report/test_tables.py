"""Tables: all three forms hold the same numbers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from synthetic import Plan, write_plain, write_run

from dynamax_lm.report import cells, tables
from dynamax_lm.report.depth_bills import ACCOUNTS
from dynamax_lm.report.leaderboard import Leaderboard, build
from dynamax_lm.report.load import load
from dynamax_lm.report.page import leaderboard_page
from dynamax_lm.report.runs import Value


def _board(folder: Path) -> Leaderboard:
    write_run(folder / "a")
    write_run(folder / "b", Plan(threshold=0, settings={"exit_layers": [1]}))
    write_plain(folder / "c")
    return build(load([folder]))


def test_json_and_csv_give_back_every_record(tmp_path: Path) -> None:
    board = _board(tmp_path)
    records = [tables.record_of(entry) for entry in board.entries]
    assert json.loads(tables.to_json(board))["rows"] == records
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(board))))
    as_text = [
        {name: "" if value is None else str(value) for name, value in record.items()}
        for record in records
    ]
    assert rows == as_text


def test_markdown_has_a_line_a_row_and_as_many_cells_as_columns(tmp_path: Path) -> None:
    board = _board(tmp_path)
    board.entries[0].row.run.data["results"]["gen"]["alias"] = "a|b"  # type: ignore[index]
    first, second = tables.to_markdown(board).split("\nPaired by document")
    lines = first.strip().splitlines()
    assert len(lines) == 2 + len(board.entries)
    assert {line.replace("\\|", "").count("|") for line in lines} == {20}
    assert len(second.strip().splitlines()) == 2 + 2 + len(board.comparisons)


def test_a_setting_that_does_not_beat_its_baseline_is_marked(tmp_path: Path) -> None:
    board = _board(tmp_path)
    for entry in board.entries:
        for account in ACCOUNTS:
            baseline = cells.baseline_of(entry, account)
            text = cells.baseline_text(baseline)
            if baseline is None:
                assert text == "–"
            elif baseline.verdict == "beats":
                assert text.startswith("✓")
            else:
                assert text.startswith(("✗", "≈", "·")) or "not measured" in text


def test_the_oracle_is_never_shown_as_a_result(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(settings={"confidence": "oracle"}))
    text = tables.to_markdown(build(load([tmp_path])))
    assert "ceiling, not a result" in text


def test_equal_documents_are_no_interval_of_nothing(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(documents=6))
    for path in made.samples.values():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        same = [line | {"em": 0.5, "full_depth_em": 0.5} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in same))
    data = made.data()
    for numbers in data["results"].values():
        numbers |= {"em,none": 0.5, "full_depth_em,none": 0.5}
    made.change(data)
    for one in build(load([tmp_path])).comparisons:
        text = tables.difference_text(one)
        assert text.endswith("n = 6, no document differs")
        assert "[−0." in text


def test_a_page_says_over_how_many_comparisons_it_has_looked(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(documents=8))
    write_run(tmp_path / "b", Plan(documents=8, threshold=0.9))
    board = build(load([tmp_path]))
    assert board.tested == 4, "two settings, two tasks, one metric each"
    said = "This page looked at 4 comparisons."
    assert said in tables.to_markdown(board)
    assert said in leaderboard_page(board, runs=2)
    assert json.loads(tables.to_json(board))["comparisons_tested"] == 4


def test_what_was_not_asked_the_same_is_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", Plan(threshold=0.9, few_shot=5))
    text = tables.to_markdown(build(load([tmp_path])))
    _, _, below = text.partition("Not compared")
    assert below.count("other few-shot: 0 against 5") == 2, "once a task"
    row = next(line for line in text.splitlines() if "top_prob ≥ 0.9" in line)
    assert row.split(" | ")[-2] == "5"


def test_numbers_for_people() -> None:
    assert cells.shown(None) == cells.percent(None) == "–"
    assert cells.shown(Value(0.12345, 0.01)) == "0.123 ± 0.010"
    assert cells.percent(Value(-0.031, 0.027)) == "−3.1 ± 2.7 %"
    assert cells.percent(Value(0.5, None)) == "50.0 %"
