"""Dominance against brute force."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from synthetic import GENERATION, Plan, write_run

from dynamax_lm.report.load import load
from dynamax_lm.report.pareto import optimal, pareto_marks
from dynamax_lm.report.rows import arenas, rows_of

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
    (arena,) = arenas(rows_of(load([tmp_path]).runs))
    by_kind = dict(zip([row.kind for row in arena], pareto_marks(arena), strict=True))
    assert by_kind["oracle"] == (False, False)
    dynamic = next(row for row in arena if row.kind == "dynamic")
    assert dynamic.flops_saved is not None
    assert dynamic.agreement is not None
    cheaper_than_full = dynamic.flops_saved.mean > 0
    assert by_kind["dynamic"].agreement == (cheaper_than_full or dynamic.agreement.mean > 1)
