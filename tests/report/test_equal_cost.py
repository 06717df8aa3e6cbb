"""A difference at equal cost: the depth's own uncertainty is part of the claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from dynamax_lm.common.intervals import SHARE, Bounds, p_at_most
from dynamax_lm.report.equal_cost import Path, at_equal_cost

COSTS = Bounds(0.5, 1.2)
rows = st.lists(st.tuples(*[st.floats(0, 1)] * 3, st.floats(0.5, 1.2)), min_size=6, max_size=30)
Row = tuple[float, float, float, float]


def _path(shallow: list[float], deep: list[float], *, whole: bool = True) -> Path:
    return Path(np.array([0.6, 1.0]), np.array([shallow, deep]), whole=whole)


@settings(max_examples=20)
@given(rows)
def test_no_claim_is_stronger_than_at_the_cost_observed(drawn: list[Row]) -> None:
    ours, shallow, deep, costs = map(list, zip(*drawn, strict=True))
    path = _path(shallow, deep)
    found = at_equal_cost(ours, path, costs, SHARE, COSTS)
    assert found.low <= found.gaps.mean() <= found.high
    assert found.gaps == pytest.approx(np.array(ours) - path.best(float(np.mean(costs))))
    if found.p_higher <= 0.025:
        assert p_at_most(found.gaps, 0.0, SHARE.of_gaps) <= 0.025
        assert found.low >= 0
    if found.p_lower <= 0.025:
        assert found.high <= 0


@settings(max_examples=20)
@given(rows)
def test_swapping_better_and_worse_turns_it(drawn: list[Row]) -> None:
    ours, shallow, deep, costs = map(list, zip(*drawn, strict=True))
    costs = [max(0.6, cost) for cost in costs]  # none below the cheapest measured depth
    one = at_equal_cost(ours, _path(shallow, deep), costs, SHARE, Bounds(0.6, 1.2))
    turned = [[1 - value for value in values] for values in (shallow, deep)]
    other = at_equal_cost([1 - v for v in ours], _path(*turned), costs, SHARE, Bounds(0.6, 1.2))
    assert (one.p_higher, one.p_lower) == (other.p_lower, other.p_higher)
    assert one.low == pytest.approx(-other.high, abs=1e-6)


def test_costs_that_spread_widen_the_interval() -> None:
    """The same mean cost; depth is worth much."""
    count = 100
    ours, path = [0.5] * count, _path([0.0] * count, [1.0] * count)
    even = at_equal_cost(ours, path, [0.8] * count, SHARE, COSTS)
    apart = at_equal_cost(ours, path, [0.5, 1.1] * (count // 2), SHARE, COSTS)
    assert apart.high - apart.low > 1.5 * (even.high - even.low)


def test_between_measured_depths_lies_every_mixture_of_two_that_enclose() -> None:
    path = Path(np.array([0.5, 0.75, 1.0]), np.array([[0.0], [0.2], [1.0]]), whole=True)
    for cost, values in (
        (0.4, [0.0]),
        (0.5, [0.0]),
        (0.625, [0.1, 0.25]),
        (0.75, [0.2, 0.5]),
        (0.875, [0.6, 0.75]),
        (1.2, [1.0]),
    ):
        assert sorted(path.mixtures(cost).ravel()) == pytest.approx(values)
        assert path.best(cost) == pytest.approx([values[-1]])


hundredths = st.integers(50, 100).map(lambda number: number / 100)
measured = st.lists(hundredths, min_size=1, max_size=5, unique=True).map(sorted)


@given(measured, st.floats(0.4, 1.1), st.randoms(use_true_random=False))
def test_the_best_mixture_is_the_upper_hull(costs: list[float], cost: float, rng: object) -> None:
    values = [rng.random() for _ in costs]  # type: ignore[attr-defined]
    path = Path(np.array(costs), np.array(values)[:, None], whole=False)
    inside = min(max(cost, costs[0]), costs[-1])
    odds = linprog(
        -np.array(values), A_eq=[costs, [1.0] * len(costs)], b_eq=[inside, 1.0], bounds=(0, 1)
    )
    assert path.best(cost)[0] == pytest.approx(-odds.fun, abs=1e-6)


def test_a_further_measured_depth_weakens_no_baseline() -> None:
    """Convex in depth: the mixture of the outer two is the best, whatever lies between them."""
    rng = np.random.default_rng(0)
    count, depths = 400, np.linspace(0.6, 1.0, 5)
    chance = np.array([0.2, 0.25, 0.3, 0.4, 1.0])
    values = (rng.random((5, count)) < chance[:, None]).astype(np.float64)
    costs = rng.uniform(0.7, 0.9, count).tolist()
    bounds = Bounds(0.7, 0.9)
    for right, higher in ((0.45, False), (0.9, True)):  # where the outer mixture is right in 0.6
        ours = (rng.random(count) < right).astype(np.float64).tolist()
        few, many = (
            at_equal_cost(ours, Path(depths[kept], values[kept], True), costs, SHARE, bounds)
            for kept in ([0, 4], [0, 1, 2, 3, 4])
        )
        assert few.gaps == pytest.approx(many.gaps)
        assert few.p_higher <= many.p_higher
        assert many.low <= few.low
        assert (many.p_higher <= 0.025, many.p_lower <= 0.025) == (higher, not higher)


def test_lower_than_one_of_several_pays_for_each() -> None:
    """A setting level with every mixture but one is shown lower at less than the whole level."""
    rng = np.random.default_rng(1)
    count, depths = 100, np.array([0.5, 0.6, 0.9, 1.0])
    values = np.tile((rng.random(count) < 0.5).astype(np.float64), (4, 1))
    ours = values[0] * (rng.random(count) < 0.7)
    one, four = (
        at_equal_cost(
            ours.tolist(), Path(depths[kept], values[kept], True), [0.75] * count, SHARE, COSTS
        )
        for kept in ([0, 3], [0, 1, 2, 3])
    )
    assert one.p_lower < four.p_lower
    assert one.high < four.high
    assert one.low == pytest.approx(four.low)


def test_beyond_what_was_measured_only_the_safe_claim_is_made() -> None:
    count = 200
    zeros, ones = [0.0] * count, [1.0] * count
    cheap = _path(zeros, zeros)
    assert at_equal_cost(ones, cheap, [0.5] * count, SHARE, COSTS).p_higher <= 0.025
    assert at_equal_cost(zeros, _path(ones, ones), [0.5] * count, SHARE, COSTS).p_lower == 1.0
    short = _path(zeros, zeros, whole=False)
    assert at_equal_cost(ones, short, [1.2] * count, SHARE, COSTS).p_higher == 1.0
