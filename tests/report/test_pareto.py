"""Dominance against brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import COSTS, GENERATION, Plan, write_run

from dynamax_lm.core.costs import norm_flops, unembed_flops
from dynamax_lm.report.depth_bills import saving_of
from dynamax_lm.report.load import load
from dynamax_lm.report.pareto import optimal, pareto_marks
from dynamax_lm.report.rows import comparison_groups, rows_of
from dynamax_lm.report.runs import Value

coordinate = st.integers(-3, 3).map(float)


@given(st.lists(st.tuples(coordinate, coordinate), max_size=12))
def test_optimal_points_are_those_that_no_step_improves(points: list[tuple[float, float]]) -> None:
    """Brute force: along the front, sorted by the first count, the second must rise strictly."""
    marks = optimal(points)
    for point, mark in zip(points, marks, strict=True):
        more = [y for x, y in points if x > point[0]]
        same = [y for x, y in points if x == point[0]]
        assert mark == (point[1] == max(same) and all(y < point[1] for y in more))


@given(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=1, max_size=8))
def test_something_is_optimal_and_covers_the_rest(points: list[tuple[float, ...]]) -> None:
    marks = optimal(points)
    front = [p for p, mark in zip(points, marks, strict=True) if mark]
    assert front
    for point in points:
        assert any(all(a >= b for a, b in zip(p, point, strict=True)) for p in front)


def test_the_oracle_takes_no_part_and_full_depth_always_does(tmp_path: Path) -> None:
    for number, (confidence, exits) in enumerate([("oracle", (1,)), ("top_prob", (7,))]):
        plan = Plan(
            seed=number,
            exits=exits,
            settings={"confidence": confidence, "exit_layers": list(exits)},
            tasks={"gen": GENERATION},
        )
        write_run(tmp_path / confidence, plan)
    (group,) = comparison_groups(rows_of(load([tmp_path]).runs))
    by_kind = dict(zip([row.kind for row in group], pareto_marks(group), strict=True))
    assert by_kind["oracle"] == (False, False)
    dynamic = next(row for row in group if row.kind == "dynamic")
    assert dynamic.flops_saved is not None
    assert dynamic.agreement is not None
    cheaper_than_full = dynamic.flops_saved.mean > 0
    assert by_kind["dynamic"].agreement == (cheaper_than_full or dynamic.agreement.mean > 1)


def test_a_fixed_depth_stands_for_the_model_of_so_many_layers(tmp_path: Path) -> None:
    """Its run is billed for the state of layers that never run; no baseline is."""
    task = {"gen": GENERATION}
    write_run(tmp_path / "a", Plan(tasks=task))
    made = write_run(
        tmp_path / "b", Plan(tasks=task, settings={"exit_layers": [2], "threshold": 0})
    )
    (group,) = comparison_groups(rows_of(load([tmp_path]).runs))
    static = next(row for row in group if row.kind == "static")
    dynamic = next(row for row in group if row.kind == "dynamic")
    assert static.flops_saved is not None
    assert dynamic.flops_saved is not None
    assert saving_of(dynamic) == dynamic.flops_saved.mean
    totals = made.data()["config"]["early_exit"]["tasks"]["gen"]
    whole = totals["ledger"]["flops"]["full_depth"]
    emission = totals["tokens"] * (norm_flops(COSTS) + unembed_flops(COSTS))
    saved = saving_of(static)
    assert saved is not None
    assert saved == pytest.approx(1 - (2 * (whole - emission) / 8 + emission) / whole)
    own = static.flops_saved.mean
    assert own < saved
    for between, expected in (((own + saved) / 2, False), (saved + 0.01, True)):
        like = replace(
            dynamic,
            quality=static.quality,
            full_depth=static.full_depth,
            agreement=static.agreement,
            flops_saved=Value(between, None),
        )
        marks = pareto_marks([like, static])
        assert marks[0].agreement == expected
        assert marks[1].agreement != expected
