"""Pictures: drawn from what there is, in both forms, the same every time."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.common.intervals import SHARE, Bounds
from dynamax_lm.common.plots import new_figure
from dynamax_lm.report import pictures
from dynamax_lm.report.load import Library, load
from dynamax_lm.report.pictures import Picture
from dynamax_lm.report.reliability import Curve, reliability_curve
from dynamax_lm.report.rows import Row, comparison_groups, rows_of

ONE = {"gen": GENERATION}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a", Plan(tasks=ONE))
    write_run(folder / "b", Plan(tasks=ONE, settings={"confidence": "oracle"}))
    write_run(folder / "c", Plan(tasks=ONE, threshold=0, settings={"exit_layers": [4]}))
    return load([folder])


@pytest.fixture(scope="module")
def group(library: Library) -> list[Row]:
    (group,) = comparison_groups(rows_of(library.runs))
    return group


def _check(picture: Picture | None, *texts: str) -> None:
    assert picture is not None
    width, height = Image.open(io.BytesIO(picture.png)).size
    assert width > 300
    assert height > 100
    ElementTree.fromstring(picture.svg)
    for text in texts:
        assert text in picture.svg


def test_each_picture_is_drawn_in_both_forms(library: Library, group: list[Row]) -> None:
    _check(pictures.trade_off("x", group), "oracle (ceiling)", "fixed depth")
    _check(pictures.depths("x", group), "layer 4", "layer 8")
    _check(pictures.ledger("x", group), "exit checks", "skipped state")
    curves = [reliability_curve(r.setting, library.trace(r.run, "gen") or [], 8) for r in group]
    _check(pictures.reliability("x", "title", curves), "confidence at the exit")


def test_few_colours_are_still_the_right_ones(
    group: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A legend's few pixels must keep the colour that they explain."""
    seen: list[bytes] = []
    compact = pictures._compact

    def remember(png: bytes) -> bytes:
        seen.append(png)
        return compact(png)

    monkeypatch.setattr(pictures, "_compact", remember)
    for draw in (pictures.trade_off, pictures.ledger):
        picture = draw("x", group)
        assert picture is not None
        before, after = (
            np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)
            for png in (seen[-1], picture.png)
        )
        assert np.abs(before - after).max() <= 16
        assert len(picture.png) < len(seen[-1]) / 1.5


def test_a_picture_is_the_same_every_time(group: list[Row]) -> None:
    first, second = pictures.depths("x", group), pictures.depths("x", group)
    assert first is not None
    assert second is not None
    assert first.png == second.png
    assert first.svg == second.svg


def test_points_that_lie_together_share_a_label(tmp_path: Path) -> None:
    """The same tokens under nine thresholds: one place, one label, from lowest to highest."""
    for threshold in range(1, 10):
        write_run(tmp_path / str(threshold), Plan(tasks=ONE, threshold=threshold / 10))
    (rows,) = comparison_groups(rows_of(load([tmp_path]).runs))
    picture = pictures.trade_off("x", rows)
    assert picture is not None
    assert "0.1–0.9" in picture.svg
    assert "<!-- 0.5 -->" not in picture.svg


def test_what_all_settings_share_is_said_once(tmp_path: Path) -> None:
    for threshold in (0.5, 0.7):
        write_run(tmp_path / str(threshold), Plan(tasks=ONE, threshold=threshold))
    (rows,) = comparison_groups(rows_of(load([tmp_path]).runs))
    for picture in (pictures.depths("x", rows), pictures.ledger("x", rows)):
        assert picture is not None
        assert picture.svg.count("exits 3+5, propagate") == 1
        assert "<!-- top_prob ≥ 0.5 -->" in picture.svg


def test_without_numbers_of_ours_nothing_is_drawn(tmp_path: Path) -> None:
    write_plain(tmp_path, Plan(tasks=ONE))
    rows = rows_of(load([tmp_path]).runs)
    assert pictures.trade_off("x", rows) is None
    assert pictures.depths("x", rows) is None
    assert pictures.ledger("x", rows) is None
    assert pictures.reliability("x", "t", [Curve("empty", [])]) is None


def test_names_of_any_length_and_text_leave_space_for_the_picture(
    library: Library, tmp_path: Path
) -> None:
    long = "$x_{" + "a long setting, " * 40
    write_run(tmp_path, Plan(tasks=ONE, settings={"pretrained": long, "arguments": {"a": long}}))
    strange = load([tmp_path])
    (rows,) = comparison_groups(rows_of(strange.runs))
    both = [*rows, *comparison_groups(rows_of(library.runs))[0]]
    curves = [reliability_curve(long, strange.trace(strange.runs[0], "gen") or [], 8)]
    _check(pictures.trade_off("x", both))
    _check(pictures.depths("x", both))
    _check(pictures.ledger("x", both))
    _check(pictures.reliability("x", long, curves))


@pytest.mark.parametrize(
    ("least", "bounds", "below"), [(-0.2, SHARE, -0.06), (0.3, SHARE, 0.3), (-0.2, None, -0.2)]
)
def test_an_axis_ends_near_the_least_possible_value(
    least: float, bounds: Bounds | None, below: float
) -> None:
    axes = new_figure(2, 2).subplots()
    axes.set_ylim(least, 2.0)
    pictures.end_at_bound(axes, bounds)
    assert axes.get_ylim() == pytest.approx((below, 2.0))
