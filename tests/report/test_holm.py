"""Holm's procedure against its definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from dynamax_lm.report.holm import holm

p_values = st.lists(st.floats(0, 1), max_size=12)


@given(p_values, st.floats(0, 1))
def test_it_rejects_what_the_step_down_rejects(p: list[float], level: float) -> None:
    """Compare the k-th smallest with level / (m - k + 1), and stop at the first that fails."""
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if (len(p) - rank) * p[place] > level:
            break
        rejected.add(place)
    assert {i for i, adjusted in enumerate(holm(p)) if adjusted <= level} == (
        rejected if level < 1 else set(range(len(p)))
    )


@given(p_values)
def test_it_lies_between_no_correction_and_bonferronis(p: list[float]) -> None:
    for own, adjusted in zip(p, holm(p), strict=True):
        assert own <= adjusted <= min(1.0, len(p) * own) + 1e-12


def test_pages_on_which_nothing_differs_say_so() -> None:
    """Under every dependence; here all of a page's comparisons share half of their noise."""
    rng = np.random.default_rng(0)
    pages, false = 2000, 0
    for _ in range(pages):
        mine = np.where(rng.random(20) < 0.5, rng.random(), rng.random(20))
        false += min(holm(mine.tolist())) <= 0.05
    assert binomtest(false, pages, 0.05, "greater").pvalue > 1e-6
