"""Which pictures there are: the task's own first metric, a name and a heading for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from synthetic import GENERATION, Made, Plan, write_run

from dynamax_lm.report import page as pages
from dynamax_lm.report import pictures
from dynamax_lm.report.depth_bills import saving_of
from dynamax_lm.report.figures import Figures, figures_of
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.page import leaderboard_page
from dynamax_lm.report.rows import Row, rows_of

ONE = {"gen": GENERATION}


def _figures(folder: Path) -> list[Figures]:
    library = load([folder])
    return list(figures_of(library, rows_of(library.runs)))


def _with_metrics(made: Made, values: Mapping[str, float], order: list[str]) -> None:
    data: Any = made.data()
    data["results"]["gen"] |= {f"{name},none": value for name, value in values.items()}
    data["configs"]["gen"]["metric_list"] = [{"metric": name} for name in order]
    made.change(data)


def _metric(found: list[Figures]) -> str:
    return found[0].pictures[0].title.partition(" ")[0]


def test_the_metric_drawn_is_the_tasks_first_whatever_its_scale(tmp_path: Path) -> None:
    """Not the one that happens to lie farthest apart: its scale may be 0 to 100."""
    for name, by in (("a", 0.0), ("b", 0.1)):
        made = write_run(tmp_path / name, Plan(tasks=ONE, threshold=0.5 + by))
        values = {"acc": 0.5 + by, "bleu": 50 + 100 * by, "em": 0.5 + by}
        _with_metrics(made, values, ["acc", "bleu", "em"])
    assert _metric(_figures(tmp_path)) == "acc"


def test_a_metric_that_is_the_same_everywhere_gives_way(tmp_path: Path) -> None:
    for name, by in (("a", 0.0), ("b", 0.1)):
        made = write_run(tmp_path / name, Plan(tasks=ONE, threshold=0.5 + by))
        _with_metrics(made, {"acc": 0.0, "em": 0.5 + by}, ["acc", "em"])
    assert _metric(_figures(tmp_path)) == "em"
    assert len(_figures(tmp_path)) == 1


def test_the_same_task_asked_differently_has_pictures_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(tasks=ONE))
    write_run(tmp_path / "b", Plan(tasks=ONE, few_shot=5))
    found = _figures(tmp_path)
    assert sorted(re.findall(r"\d-shot", " ".join(one.heading for one in found))) == [
        "0-shot",
        "5-shot",
    ]
    names = [picture.name for one in found for picture in one.pictures]
    assert len(set(names)) == len(names)


def test_a_static_curve_names_the_measure_that_it_shows(tmp_path: Path) -> None:
    settings = {"exit_layers": [3], "threshold": 0, "confidence": "margin"}
    write_run(tmp_path, Plan(tasks=ONE, settings=settings))
    (found,) = _figures(tmp_path)
    (curve,) = (one for one in found.pictures if one.name.endswith("_reliability"))
    assert "margin, always layer 3" in curve.svg


def test_the_point_of_a_fixed_depth_is_the_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a", Plan(tasks=ONE))
    write_run(tmp_path / "b", Plan(tasks=ONE, settings={"exit_layers": [2], "threshold": 0}))
    seen: list[Row] = []
    monkeypatch.setattr(pictures, "trade_off", lambda name, group: seen.extend(group))
    _figures(tmp_path)
    by_kind = {row.kind: row for row in rows_of(load([tmp_path]).runs)}
    assert {row.kind for row in seen} == {"dynamic", "static"}
    for drawn in seen:
        row = by_kind[drawn.kind]
        assert drawn.flops_saved is not None
        assert row.flops_saved is not None
        assert drawn.flops_saved.mean == saving_of(row)
        assert (drawn.flops_saved.mean == row.flops_saved.mean) == (row.kind == "dynamic")


def test_a_page_holds_pictures_while_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path)
    library = load([tmp_path])
    figures = _figures(tmp_path)
    drawn = [picture for one in figures for picture in one.pictures]
    monkeypatch.setattr(pages, "EMBEDDED", len(drawn[0].png) + len(drawn[1].png))
    html = leaderboard_page(build(library), runs=1, figures=figures)
    assert html.count("data:image/png") == 2
    beside = re.findall(r'src="(pictures/[^"]+)"', html)
    assert sorted(beside) == sorted(f"pictures/{picture.name}.png" for picture in drawn[2:])
    assert html.count("a file beside it") == len(beside)


def test_lossless_runs_have_their_speed_drawn(tmp_path: Path) -> None:
    """One line an exit, over draft lengths, against full depth's speed."""
    for exit, length, speed in ((3, "auto", 1.2), (3, 4, 0.9), (5, 4, 1.1)):
        made = write_run(tmp_path / f"{exit}_{length}", Plan(tasks=ONE, threshold=0.4))
        data: Any = made.data()
        block = data["config"]["early_exit"]
        block["settings"] |= {"mode": "lossless", "exit_layers": [exit], "draft_length": length}
        block["speed"] = {"documents": 4, "speedup": speed}
        made.change(data)
    (figures,) = _figures(tmp_path)
    (drawn,) = (one for one in figures.pictures if one.name.endswith("_speed"))
    assert "the fastest is 1.20 (exit 3" in drawn.description
    assert "drafts of auto" in drawn.description
    for words in ("exit 3, ", "exit 5, ", "most tokens of a draft"):
        assert words in drawn.svg.replace("<!-- ", "")
    write_run(tmp_path / "plain" / "a", Plan(tasks=ONE))
    others = _figures(tmp_path / "plain")[0].pictures
    assert not [one for one in others if one.name.endswith("_speed")]
