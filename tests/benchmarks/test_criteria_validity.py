"""The criteria page's intervals hold what they are for: a short run of the simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.criteria.choice import choose
from benchmarks.criteria.column import verdict
from benchmarks.validity.criteria import coverage, read_populations

_SPREAD = math.sqrt(0.7**2 + 1)
_MEAN_OF_CUT = _SPREAD * stats.norm.pdf(1 / _SPREAD) - stats.norm.cdf(-1 / _SPREAD)
"""The mean of a normal variable of that deviation, cut below at -1."""

POPULATIONS = {one.name: one for one in read_populations()}


@pytest.mark.parametrize("name", ["mistral, affine, margin", "mamba, affine, margin"])
def test_intervals_cover_where_thresholds_are_chosen_anew_and_not_where_they_are_kept(name):
    found = coverage(POPULATIONS[name], 300, samples=120, draws=200, seed=1)
    # 0.95 less three standard errors of 120 samples
    assert min(found.saved, found.agreement, found.gap) >= 0.89
    assert found.kept < 0.7


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_value_of_a_population_is_that_of_its_one_threshold(name):
    population = POPULATIONS[name]
    saved, agreement, _ = population.value(0.95)
    means = [column.mean(1) for column in population.grid.numbers[:2]]
    assert agreement >= 0.95 - 1e-9
    for gain, agrees in zip(*means, strict=True):
        assert agrees < 0.95 or gain <= saved + 1e-9
    chosen = choose(*means, 0.95)
    assert float(chosen.of(means[0])) == pytest.approx(saved)
    assert np.isclose(float(chosen.of(means[1])), agreement)


def test_a_table_of_ties_has_a_verdict_in_at_most_one_of_twenty():
    """Rules that do no better and no worse than their static mixture, on one set of documents."""
    rules, documents, draws, tables = 8, 200, 1000, 120
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(tables):
        # documents agree wholly or in part, and rules share most of what makes them differ
        shared = generator.standard_normal((documents, 1))
        own = generator.standard_normal((documents, rules))
        gaps = np.maximum(0.7 * shared + own, -1.0)
        gaps -= _MEAN_OF_CUT
        weights = generator.multinomial(documents, [1 / documents] * documents, size=draws)
        means = np.vstack([gaps.mean(0), weights @ gaps / documents])
        found = [verdict(means[:, rule], rules) for rule in range(rules)]
        wrong += any(one != "not distinguishable" for one in found)
    assert wrong / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5


def test_a_rule_that_is_better_is_found():
    generator = np.random.default_rng(1)
    gaps = 0.5 + generator.standard_normal(200)
    weights = generator.multinomial(200, [1 / 200] * 200, size=1000)
    means = np.concatenate([[gaps.mean()], weights @ gaps / 200])
    assert verdict(means, 8) == "beats"
    assert verdict(-means, 8) == "loses"
