"""A short version of ``benchmarks.validity.comparisons``: ties of real documents, and true gaps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.validity.comparisons import (
    SIDE,
    Draw,
    better_by,
    claims,
    claims_at_equal_cost,
    expected,
    missed,
    nearest,
    new,
    old,
    plain_means,
    randomised,
    verdicts,
)
from benchmarks.validity.populations import LAYERS, populations

DRAWS, FEW_DRAWS = 150, 40
FALSE_ALARM = 1e-3
"""Chance that one of these fails although the claims are made as seldom as they should be."""


def _too_often(rate: float, allowed: float, draws: int = DRAWS) -> bool:
    return bool(binomtest(round(rate * draws), draws, allowed, "greater").pvalue < FALSE_ALARM)


@pytest.mark.parametrize("number", range(len(populations())))
@pytest.mark.parametrize("draw", [expected(), randomised])
def test_ties_are_told_apart_at_most_as_often_as_allowed(number: int, draw: Draw) -> None:
    one = populations()[number]
    for count in (6, 20, 40, 100, 1000):
        rates = claims(one, count, DRAWS, new, draw)
        assert not _too_often(rates.higher, SIDE), count
        assert not _too_often(rates.lower, SIDE), count


@pytest.mark.parametrize("number", [0, 2])
def test_a_depth_found_from_the_same_documents_makes_no_claims(number: int) -> None:
    one = populations()[number]
    for count in (20, 1000):
        rates = claims_at_equal_cost(one, count, FEW_DRAWS, "new")
        assert not _too_often(rates.higher, SIDE, FEW_DRAWS), count
        assert not _too_often(rates.lower, SIDE, FEW_DRAWS), count


def test_measuring_more_depths_never_turns_worse_into_better() -> None:
    """Depths between agree less here than the outer two mixed, so that nearer ones are weaker."""
    one = populations()[0]
    assert len(one.further) == 3
    for depth, agreement in one.further:
        share = (depth - one.depth) / (LAYERS - one.depth)
        assert agreement.mean() < (1 - share) * one.shallow.mean() + share
    worse = better_by(one, -0.01)
    for rule, count, draws in ((one, 1000, FEW_DRAWS), (worse, 3000, 10)):
        two, five = (verdicts(rule, count, draws, further=more) for more in (False, True))
        assert not (five[:, 0] & ~two[:, 0]).any(), "measuring more makes no rule better"
        assert not five[:, 0].any()
        assert (five[:, 1].mean() > 0.5) == (rule is worse), "and hides none that is worse"
    assert nearest(worse, 3000, 10).higher > 0.5, "the nearest two would make it better"


def test_taking_that_depth_for_known_would() -> None:
    """Where agreement rises steeply with depth, whatever interval the gaps have."""
    rates = claims_at_equal_cost(populations()[2], 1000, DRAWS, "depth taken for known")
    assert _too_often(rates.higher + rates.lower, 2 * SIDE)


def test_these_documents_are_what_percentile_intervals_fail_on() -> None:
    """Else the test above would prove little."""
    rates = [claims(one, 20, DRAWS, old, expected()).higher for one in populations()]
    assert all(_too_often(rate, SIDE) for rate in rates)


def test_the_populations_have_no_gap_but_the_one_that_is_made() -> None:
    for one in populations():
        assert np.abs(one.gaps().mean()) < 1e-12
        assert one.gaps(0.02).mean() == pytest.approx(0.02)
        assert np.abs(one.gaps(0.02)).max() <= 1


def test_a_true_gap_is_found() -> None:
    for one in populations():
        assert claims(one, 1000, 20, new, expected(0.02)).higher > 0.5


@pytest.mark.parametrize("place", range(3))
def test_an_interval_of_a_plain_mean_covers_it(place: int) -> None:
    _, values, bounds = list(plain_means())[place]
    for count in (6, 20, 100):
        assert not _too_often(missed(values, bounds, count, DRAWS, new), 2 * SIDE)
