"""An interval of a mean: it covers, repeats, and is not given where it could not cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.intervals import FEWEST, mean_interval


def test_the_fewest_are_the_fewest_whose_range_covers() -> None:
    """The range misses the middle where all values fall on one side of it."""
    missed = [2 * 0.5**count for count in (FEWEST - 1, FEWEST)]
    assert missed[0] > 0.05 >= missed[1]


@given(st.lists(st.floats(-100, 100), max_size=FEWEST - 1))
def test_few_values_have_none(values: list[float]) -> None:
    assert mean_interval(values) is None


@given(st.lists(st.floats(-100, 100), min_size=FEWEST, max_size=30), st.integers(0, 9))
def test_it_lies_within_the_values_and_repeats(values: list[float], seed: int) -> None:
    found = mean_interval(values, seed=seed)
    assert found is not None
    assert min(values) - 1e-9 <= found[0] <= found[1] <= max(values) + 1e-9
    assert mean_interval(values, seed=seed) == found


def test_it_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = mean_interval(rng.exponential(size=40))
        assert found is not None
        covered += found[0] <= 1.0 <= found[1]
    assert covered / 200 == pytest.approx(0.93, abs=0.05)
