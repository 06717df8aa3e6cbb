"""CONTRIBUTING's column of the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.report.__main__ import main as report
from dynamax_lm.report.columns import with_outside
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.tables import to_json
from tests.report.synthetic import GENERATION, Plan, write_run


def test_a_column_of_a_file_stands_in_every_table_and_file(here: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "in", Plan(documents=3, tasks={"gen": GENERATION}))
    assert report(["in", "--output_path", "page", "--columns", "my_columns.py:gap"]) == 0
    page = here / "page"
    data = json.loads((page / "leaderboard.json").read_text())
    assert re.fullmatch(r"my_columns\.py:gap@[0-9a-f]{12}", data["columns"]["quality_lost"])
    for row in data["rows"]:
        assert row["quality_lost"] == pytest.approx(row["full_depth"] - row["quality"])
    first = (page / "leaderboard.csv").read_text().splitlines()[0]
    assert first.split(",")[-1] == "quality_lost"
    lines = (page / "leaderboard.md").read_text().splitlines()
    heading = next(line for line in lines if line.startswith("|"))
    assert heading.split(" | ")[-1].strip(" |") == "quality lost"
    assert "quality lost" in (page / "index.html").read_text()
    assert "columns" not in json.loads(to_json(build(load([here / "in"]))))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("gap = 3", "gap is no Column"),
        ("{} key='agreement', value=lambda e: 1)", "a column of that key is there"),
        ("{} key='agreement_stderr', value=lambda e: 1)", "a column of that key is there"),
        ("{} key='Gap!', value=lambda e: 1)", "small letters"),
    ],
)
def test_a_column_that_is_none_is_refused(here: Path, source: str, word: str) -> None:
    made = "from dynamax_lm import Column\ngap = Column("
    (here / "my_columns.py").write_text(source.format(made))
    with pytest.raises(SettingError, match=word):
        with_outside(["my_columns.py:gap"])
    with pytest.raises(SettingError, match=r"FILE\.py:NAME"):
        with_outside(["gap"])
