"""Wrong certificates by documents that share a passage, and by sorted files: the short version."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.validity.certificates import DELTA, Passages, clustered, main, sorted_file

DRAWS = 150
FALSE_ALARM = 1e-3


def too_many(share: float) -> bool:
    return bool(binom.sf(round(share * DRAWS) - 1, DRAWS, DELTA) < FALSE_ALARM)


def test_the_population_has_the_risk_that_it_says() -> None:
    population = Passages(4000, 3, 0.055, 0.3, 4)
    losses = population.losses(np.random.default_rng(0)).reshape(-1, 3)
    units = losses.mean(axis=1)
    assert abs(units.mean() - 0.055) < 5 * units.std() / np.sqrt(units.size)


@pytest.mark.parametrize("tokens", [1, 8])
def test_few_passages_certify_nothing_though_each_question_alone_would(tokens: int) -> None:
    found = clustered(Passages(15, 20, 0.055, 0.3, tokens), DRAWS)
    assert too_many(found.before), "the fault that grouping mends"
    assert found.after == 0
    assert not too_many(found.unchecked)


def test_many_passages_certify_what_is_true() -> None:
    wrong = clustered(Passages(300, 20, 0.055, 0.3, 8), DRAWS)
    assert too_many(wrong.before), "the fault that grouping mends"
    assert not too_many(wrong.after)
    right = clustered(Passages(300, 20, 0.02, 0.05, 8), 40)
    assert right.after > 0.9


def test_a_sorted_file_is_drawn_from_not_cut() -> None:
    found = sorted_file(DRAWS)
    assert found.before > 0.9
    assert not too_many(found.after)


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--draws", "2"])
    assert len(capsys.readouterr().out.splitlines()) > 10
