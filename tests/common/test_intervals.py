"""An interval of a bounded mean: it covers at every number of documents, and repeats."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from dynamax_lm.common.intervals import FEWEST, LEVEL, Bounds, mean_interval, p_at_least, p_at_most

SIGNED = Bounds(-1.0, 1.0)
FALSE_ALARM = 1e-6
"""Chance that a simulation below fails although the intervals are valid."""

numbers = st.lists(st.floats(-1, 1), min_size=FEWEST, max_size=40)


class Case(NamedTuple):
    """A distribution on [-1, 1]: its mean, and draws of it."""

    mean: float
    values: tuple[float, ...]
    odds: tuple[float, ...]

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
        return rng.choice(self.values, size=count, p=self.odds)


SELDOM = Case(0.0, (0.03, -0.57), (0.95, 0.05))
SIGNS = Case(0.0, (1.0, -1.0, 0.0), (0.1, 0.1, 0.8))
CONSTANT = Case(0.2, (0.2,), (1.0,))
EXTREME = Case(0.9, (1.0, -1.0), (0.95, 0.05))


@pytest.mark.parametrize("case", [SELDOM, SIGNS, CONSTANT, EXTREME])
@pytest.mark.parametrize("count", [FEWEST, 20, 100])
def test_each_side_is_missed_at_most_as_often_as_allowed(case: Case, count: int) -> None:
    rng = np.random.default_rng(count)
    side, draws = (1 - LEVEL) / 2, 400
    missed = np.zeros(2, dtype=int)
    for _ in range(draws):
        low, high = mean_interval(case.draw(rng, count), SIGNED) or (-1.0, 1.0)
        missed += [low > case.mean, high < case.mean]
    for times in missed:
        assert binomtest(int(times), draws, side, "greater").pvalue > FALSE_ALARM


def test_no_fewer_documents_could_show_anything() -> None:
    """All gaps as large as can be: at the fewest they are shown, below that they are not."""
    side = (1 - LEVEL) / 2
    assert 2.0 ** (FEWEST - 1) < 1 / side <= 2.0**FEWEST
    assert p_at_most([1.0] * FEWEST, 0.0, SIGNED) <= side
    assert p_at_most([1.0] * (FEWEST - 1), 0.0, SIGNED) > side


@given(st.lists(st.floats(-1, 1), max_size=FEWEST - 1))
def test_few_values_have_none(values: list[float]) -> None:
    assert mean_interval(values, SIGNED) is None


@given(numbers)
def test_it_holds_its_mean_lies_within_the_bounds_and_repeats(values: list[float]) -> None:
    found = mean_interval(values, SIGNED)
    assert found is not None
    mean = float(np.mean(values))
    assert -1 - 1e-9 <= found[0] <= mean + 1e-9
    assert mean - 1e-9 <= found[1] <= 1 + 1e-9
    assert found[0] < found[1], "nothing is known exactly from documents"
    assert mean_interval(values, SIGNED) == found


@given(numbers)
def test_it_holds_exactly_the_means_that_are_not_rejected(values: list[float]) -> None:
    low, high = mean_interval(values, SIGNED) or (-1.0, 1.0)
    mean, side = float(np.mean(values)), (1 - LEVEL) / 2
    for place in np.linspace(-1, 1, 21):
        if place < low:
            assert p_at_most(values, place, SIGNED) <= side + 1e-9
        elif low + 1e-6 < place < mean:
            assert p_at_most(values, place, SIGNED) >= side - 1e-9
        elif mean < place < high - 1e-6:
            assert p_at_least(values, place, SIGNED) >= side - 1e-9
        elif place > high:
            assert p_at_least(values, place, SIGNED) <= side + 1e-9


@given(numbers, st.floats(-0.9, 0.9), st.floats(0, 0.1))
def test_a_higher_mean_is_never_harder_to_believe_at_most(
    values: list[float], mean: float, more: float
) -> None:
    assert p_at_most(values, mean, SIGNED) <= p_at_most(values, mean + more, SIGNED) + 1e-12


@given(numbers)
def test_turning_the_values_turns_the_interval(values: list[float]) -> None:
    low, high = mean_interval(values, SIGNED) or (0.0, 0.0)
    turned = mean_interval([-value for value in values], SIGNED)
    assert turned == (pytest.approx(-high, abs=1e-7), pytest.approx(-low, abs=1e-7))
    assert p_at_least(values, 0.1, SIGNED) == pytest.approx(
        p_at_most([-value for value in values], -0.1, SIGNED)
    )


@given(numbers, st.floats(-50, 50), st.floats(0.1, 50))
def test_the_scale_does_not_matter(values: list[float], low: float, width: float) -> None:
    moved = [low + width * (value + 1) / 2 for value in values]
    here = mean_interval(values, SIGNED) or (0.0, 0.0)
    there = mean_interval(moved, Bounds(low, low + width)) or (0.0, 0.0)
    for one, other in zip(here, there, strict=True):
        assert other == pytest.approx(low + width * (one + 1) / 2, abs=1e-6 * width)


def test_many_documents_come_near_the_normal_interval() -> None:
    values = np.clip(np.random.default_rng(1).normal(0.1, 0.2, 3000), -1, 1)
    low, high = mean_interval(values, SIGNED) or (-1.0, 1.0)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert half < values.mean() - low < 2 * half
    assert half < high - values.mean() < 2 * half


@pytest.mark.parametrize("values", [[], [0.0, math.nan], [0.0, 1.1]])
def test_what_is_no_bounded_value_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"finite|outside"):
        p_at_most(values, 0.0, SIGNED)
    with pytest.raises(ValueError, match="outside"):
        p_at_least([0.5], 2.0, SIGNED)


@given(st.floats(-2, 2), st.integers(FEWEST, 30))
def test_bounds_that_meet_leave_no_doubt(value: float, count: int) -> None:
    """As where the only path through the exits runs all layers: nothing can be saved."""
    bounds = Bounds(value, value)
    values = [value] * count
    assert mean_interval(values, bounds) == (value, value)
    assert p_at_most(values, value, bounds) == p_at_least(values, value, bounds) == 1.0
