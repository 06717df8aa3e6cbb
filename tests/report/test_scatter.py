"""The page's picture of savings: places in the order of values, links that lead somewhere."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from synthetic import GENERATION, Plan, write_run

from dynamax_lm.report import pictures, scatter
from dynamax_lm.report.figures import Figures
from dynamax_lm.report.leaderboard import Leaderboard, build
from dynamax_lm.report.load import load
from dynamax_lm.report.page import leaderboard_page
from dynamax_lm.report.pictures import Picture
from dynamax_lm.report.rows import Row
from dynamax_lm.report.runs import Value
from dynamax_lm.report.scatter import LEFT, RIGHT, Scatter, points_csv, scatter_of


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    folder = tmp_path_factory.mktemp("runs")
    for number, measure in enumerate(("top_prob", "margin", "oracle")):
        plan = Plan(
            tasks={"gen": GENERATION},
            documents=4,
            seed=number,
            settings={"confidence": measure},
        )
        write_run(folder / measure, plan)
    return build(load([folder]))


def rows_of(board: Leaderboard) -> list[Row]:
    """At savings that differ, one negative."""
    rows = [entry.row for entry in board.entries if entry.row.key.metric == "em"]
    assert len(rows) == 3
    return [
        replace(row, flops_saved=Value(saved, 0.01), agreement=Value(agreed, 0.02))
        for row, saved, agreed in zip(rows, (-0.1, 0.3, 0.2), (0.99, 0.8, 0.9), strict=True)
    ]


def drawn(rows: Sequence[Row]) -> Scatter:
    made = scatter_of(rows, lambda row: row.setting)
    assert made is not None
    return made


def test_places_are_in_the_order_of_values_and_inside(board: Leaderboard) -> None:
    rows = rows_of(board)
    made = drawn(rows)
    places = {point.link: point.marks for point in made.points}
    assert sorted(places) == sorted(row.setting for row in rows)
    for values, panel in (("quality", 0), ("agreement", 1)):
        shown = [(getattr(row, values).mean, places[row.setting][panel]) for row in rows]
        for one, mark in shown:
            area = made.panels[panel]
            assert area.top <= mark.high <= mark.y <= mark.low <= area.bottom
            assert all((one > other) <= (mark.y < below.y) for other, below in shown)
    across = [(row.flops_saved.mean, places[row.setting][0].x) for row in rows if row.flops_saved]
    assert [x for _, x in sorted(across)] == sorted(x for _, x in across)
    assert all(LEFT <= x <= RIGHT for _, x in across)
    assert made.panels[1].level == pytest.approx(
        next(t.at for t in made.panels[1].ticks if t.text == "100 %"), abs=0.2
    )


def test_a_point_tells_its_setting_and_numbers(board: Leaderboard) -> None:
    made = drawn(rows_of(board))
    first = next(point for point in made.points if "−10.0 % of answer FLOPs" in point.numbers)
    assert "agreement 99.0 %" in first.numbers
    assert {name for name, _, _ in made.legend} >= {"oracle (ceiling)"}
    assert len({(shape, colour) for _, shape, colour in made.legend}) == len(made.legend)


def test_every_link_of_the_page_leads_to_answers_or_to_a_row(board: Leaderboard) -> None:
    rows = rows_of(board)
    picture = Picture("gen_saved", "title", "text", b"", "")
    answers = {(str(rows[0].run.path), rows[0].task): "tokens/gen.html"}
    page = leaderboard_page(
        board, runs=3, figures=[Figures("gen", [picture], rows)], tokens=answers
    )
    links = re.findall(r'<a class="point" href="([^"]+)"', page)
    assert len(links) == 3
    assert links.count("tokens/gen.html") == 1
    places = re.findall(r'<tr id="([^"]+)"', page)
    assert len(set(places)) == len(places)
    assert {link[1:] for link in links if link.startswith("#")} <= set(places)
    assert 'href="pictures/gen_saved.csv"' in page


def test_the_data_are_the_points_unrounded(board: Leaderboard) -> None:
    rows = rows_of(board)
    for row, record in zip(rows, csv.DictReader(io.StringIO(points_csv(rows))), strict=True):
        assert record["setting"] == row.setting
        assert row.flops_saved is not None
        assert float(record["flops_saved"]) == row.flops_saved.mean
        assert float(record["quality"]) == row.quality.mean


def test_rows_without_savings_have_no_picture(board: Leaderboard) -> None:
    assert scatter_of([replace(row, flops_saved=None) for row in rows_of(board)], str) is None


def test_every_style_of_the_pictures_has_a_shape() -> None:
    markers = {style[1] for style in pictures._STYLES.values()}
    markers |= {marker for _, marker in pictures._DYNAMIC}
    assert markers <= scatter._SHAPES.keys()
