"""The criteria page's intervals hold what they are for: a short run of the simulation."""

import numpy as np
import pytest

from benchmarks.criteria.choice import choose
from benchmarks.validity.criteria import coverage, read_populations

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
