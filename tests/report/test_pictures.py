"""Pictures: drawn from what there is, in both forms, the same every time."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.report import pictures
from dynamax_lm.report.load import Library, load
from dynamax_lm.report.pictures import Picture
from dynamax_lm.report.reliability import Curve, reliability_curve
from dynamax_lm.report.rows import Row, arenas, rows_of

ONE = {"gen": GENERATION}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a", Plan(tasks=ONE))
    write_run(folder / "b", Plan(tasks=ONE, settings={"confidence": "oracle"}))
    write_run(folder / "c", Plan(tasks=ONE, threshold=0, settings={"exit_layers": [4]}))
    return load([folder])


@pytest.fixture(scope="module")
def arena(library: Library) -> list[Row]:
    (arena,) = arenas(rows_of(library.runs))
    return arena


def _check(picture: Picture | None, *texts: str) -> None:
    assert picture is not None
    width, height = Image.open(io.BytesIO(picture.png)).size
    assert width > 300
    assert height > 100
    ElementTree.fromstring(picture.svg)
    for text in texts:
        assert text in picture.svg


def test_each_picture_is_drawn_in_both_forms(library: Library, arena: list[Row]) -> None:
    _check(pictures.trade_off("x", arena), "oracle (ceiling)", "always one depth")
    _check(pictures.depths("x", arena), "layer 4", "layer 8")
    _check(pictures.ledger("x", arena), "exit checks", "skipped state")
    curves = [reliability_curve(r.setting, library.trace(r.run, "gen") or [], 8) for r in arena]
    _check(pictures.reliability("x", "title", curves), "confidence at the exit")


def test_a_picture_is_the_same_every_time(arena: list[Row]) -> None:
    first, second = pictures.depths("x", arena), pictures.depths("x", arena)
    assert first is not None
    assert second is not None
    assert first.png == second.png
    assert first.svg == second.svg


def test_without_numbers_of_ours_nothing_is_drawn(tmp_path: Path) -> None:
    write_plain(tmp_path, Plan(tasks=ONE))
    rows = rows_of(load([tmp_path]).runs)
    assert pictures.trade_off("x", rows) is None
    assert pictures.depths("x", rows) is None
    assert pictures.ledger("x", rows) is None
    assert pictures.reliability("x", "t", [Curve("empty", [])]) is None
