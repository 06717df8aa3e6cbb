"""A report is made of what can be read, and its files do nothing where they are opened."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import GENERATION, Plan, write_run

from dynamax_lm.common.errors import SettingError
from dynamax_lm.report import tables, write
from dynamax_lm.report.column import Column
from dynamax_lm.report.columns import COLUMNS
from dynamax_lm.report.leaderboard import Leaderboard, build
from dynamax_lm.report.load import Library, load
from dynamax_lm.report.write import write_report

ONE = {"gen": GENERATION}


def spoil(monkeypatch: pytest.MonkeyPatch, harmed: Sequence[str]) -> None:
    """Comparisons fail on some runs, in a way that no check foresaw."""

    def broken(library: Library, baseline: Library | None = None) -> Leaderboard:
        for run in library.runs:
            if run.path.parent.name in harmed:
                raise KeyError("ledger")
        return build(library, baseline)

    monkeypatch.setattr(write, "build", broken)


@pytest.mark.parametrize("harmed", [["b"], ["a", "c"]])
def test_a_damaged_run_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harmed: list[str]
) -> None:
    for number, name in enumerate("abc"):
        write_run(tmp_path / name, Plan(tasks=ONE, threshold=0.4 + number / 10))
    library = load([tmp_path])
    spoil(monkeypatch, harmed)
    written = write_report(library, tmp_path / "report")
    assert written.rows == 3 - len(harmed)
    assert len(library.problems) == len(harmed)
    for name, line in zip(harmed, library.problems, strict=True):
        assert str(tmp_path / name) in line
        assert "KeyError" in line
    assert "damaged" in (tmp_path / "report" / "index.html").read_text()


def test_an_error_that_every_run_has_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_run(tmp_path / name, Plan(tasks=ONE))
    spoil(monkeypatch, ["a", "b"])
    with pytest.raises(KeyError):
        write_report(load([tmp_path]), tmp_path / "report")


PAYLOADS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "a|b",
]


def named(tmp_path: Path, text: str) -> Leaderboard:
    """A report whose setting has this text."""
    write_run(tmp_path, Plan(tasks=ONE))
    board = build(load([tmp_path]))
    entries = [replace(one, row=replace(one.row, setting=text)) for one in board.entries]
    return replace(board, entries=entries)


@pytest.mark.parametrize("text", PAYLOADS)
def test_text_in_the_tables_is_inert(tmp_path: Path, text: str) -> None:
    board = named(tmp_path, text)
    (row,) = csv.DictReader(io.StringIO(tables.to_csv(board)))
    assert not any(str(field).startswith(("=", "+", "@", "\t")) for field in row.values())
    assert text in row["setting"]
    told = tables.to_markdown(board)
    assert "<script" not in told
    assert "<img" not in told
    assert "](" not in told


def test_numbers_in_the_csv_stay_numbers(tmp_path: Path) -> None:
    """A negative saving is no formula."""
    write_run(tmp_path, Plan(tasks=ONE))
    board = build(load([tmp_path]))
    (row,) = csv.DictReader(io.StringIO(tables.to_csv(board)))
    record: dict[str, Any] = tables.record_of(board.entries[0])
    for name, value in record.items():
        if isinstance(value, float):
            assert float(row[name]) == value


def test_a_column_that_fails_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    broken = Column(key="broken", value=lambda entry: entry.nothing, source="mine.py:BROKEN@0")  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match=r"mine\.py:BROKEN@0: broken raises AttributeError"):
        write_report(load([tmp_path]), tmp_path / "report", columns=(*COLUMNS, broken))
    assert not (tmp_path / "report").exists()
