"""The sequence: the last that passed, and risks exceeded at most delta of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from dynamax_lm.certify.sequence import check_grid, fixed_sequence, last_passed
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.risk_tests import (
    Losses,
    PValue,
    betting,
    betting_on_differences,
    binomial,
)
from tests.hoeffding import hoeffding_bentkus


class Tried(NamedTuple):
    threshold: float
    p_value: float


def run(thresholds: list[float], p_of: Callable[[float], float], delta: float) -> list[Tried]:
    return list(fixed_sequence(thresholds, lambda t: Tried(t, p_of(t)), delta))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.5))
def test_it_returns_the_last_that_passed_and_tests_no_further(
    p_values: list[float], delta: float
) -> None:
    thresholds = [1 - number / 20 for number in range(len(p_values))]
    by_threshold = dict(zip(thresholds, p_values, strict=True))
    outcomes = run(thresholds, by_threshold.__getitem__, delta)
    failures = [number for number, p in enumerate(p_values) if p > delta]
    tested = failures[0] + 1 if failures else len(p_values)
    assert [outcome.threshold for outcome in outcomes] == thresholds[:tested]
    best = last_passed(outcomes, delta)
    if failures[:1] == [0]:
        assert best is None
    else:
        assert best is not None
        assert best.p_value <= delta
        number = thresholds.index(best.threshold)
        assert number + 1 == len(p_values) or p_values[number + 1] > delta


def test_a_p_value_that_is_no_number_does_not_pass() -> None:
    outcomes = run([0.9, 0.8], lambda t: float("nan"), 0.05)
    assert len(outcomes) == 1
    assert last_passed(outcomes, 0.05) is None


@pytest.mark.parametrize("wrong", [(), (0.9, 0.9), (1.1,), (-0.1,), (float("nan"),)])
def test_grids_that_are_none(wrong: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="thresholds"):
        check_grid(wrong)
    assert check_grid((0.5, 1, 0.9)) == (1, 0.9, 0.5)


# -- coverage ---------------------------------------------------------------------------------

N, DRAWS, RISK, DELTA = 300, 400, 0.05, 0.1
FALSE_ALARM = 1e-9


class Population:
    """Documents whose loss at every threshold comes from the same answer.

    A document has a difficulty; each of its tokens has a confidence, uniform in [0, 1], and is
    wrong with a probability that its document sets. A wrong token costs once the threshold is at
    most its confidence. The risk at threshold t is therefore ``wrong (1 - t)``, exactly.
    """

    wrong = 0.2

    def losses(self, rng: np.random.Generator, thresholds: list[float]) -> dict[float, Losses]:
        difficulty = rng.beta(0.6, 2.4, N)  # mean 0.2
        lengths = rng.integers(1, 20, N)
        owner = np.repeat(np.arange(N), lengths)
        wrong = rng.random(owner.size) < difficulty[owner]
        confidence = rng.random(owner.size)
        return {t: np.bincount(owner, wrong & (confidence >= t), N) / lengths for t in thresholds}

    def risk(self, threshold: float) -> float:
        return self.wrong * (1 - threshold)


class WholeAnswers(Population):
    """The same, but an answer is right or wrong as a whole."""

    def losses(self, rng: np.random.Generator, thresholds: list[float]) -> dict[float, Losses]:
        wrong, confidence = rng.random(N) < self.wrong, rng.random(N)
        return {t: (wrong & (confidence >= t)).astype(float) for t in thresholds}


class Answers(Population):
    """Answers lost and won against full depth; every win makes up for a loss.

    The risk is ``0.2 (1 - t)``: 0.3 of the documents lose, 0.1 win, below their confidence.
    """

    def losses(self, rng: np.random.Generator, thresholds: list[float]) -> dict[float, Losses]:
        kind = rng.choice([1.0, -1.0, 0.0], p=[0.3, 0.1, 0.6], size=N)
        confidence = rng.random(N)
        return {t: np.where(confidence >= t, kind, 0.0) for t in thresholds}


@pytest.mark.parametrize(
    ("population", "p_value", "power"),
    [
        (Population(), betting, 0.5),
        (Population(), hoeffding_bentkus, 0.0),
        (WholeAnswers(), binomial, 0.5),
        (WholeAnswers(), betting, 0.3),
        (Answers(), betting_on_differences, 0.2),
    ],
)
def test_the_risk_is_exceeded_at_most_delta_of_the_time(
    population: Population, p_value: PValue, power: float
) -> None:
    """0.749 has a risk of 0.0502: just too high, and so the likeliest to pass in error."""
    thresholds = [0.95, 0.9, 0.85, 0.8, 0.76, 0.749, 0.7, 0.5]
    rng = np.random.default_rng(11)
    exceeded = useful = 0
    for _ in range(DRAWS):
        losses = population.losses(rng, thresholds)
        outcomes = run(thresholds, lambda t, d=losses: p_value(d[t], RISK, DELTA), DELTA)
        best = last_passed(outcomes, DELTA)
        exceeded += best is not None and population.risk(best.threshold) > RISK
        useful += best is not None and best.threshold <= 0.85
    assert binom.sf(exceeded - 1, DRAWS, DELTA) > FALSE_ALARM, exceeded
    assert useful >= power * DRAWS


def test_coverage_holds_for_all_that_passed_where_risks_are_not_monotone() -> None:
    """A risk that rises above the bound and falls again: what lies beyond is rarely reached."""
    risks = {0.9: 0.01, 0.8: 0.051, 0.7: 0.01, 0.6: 0.06}
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(DRAWS):
        luck = rng.random(N)  # one draw a document: losses agree across thresholds
        outcomes = run(
            list(risks),
            lambda t, luck=luck: binomial((luck < risks[t]).astype(float), RISK, DELTA),
            DELTA,
        )
        passed = [outcome.threshold for outcome in outcomes if outcome.p_value <= DELTA]
        wrong += any(risks[t] > RISK for t in passed)
    assert binom.sf(wrong - 1, DRAWS, DELTA) > FALSE_ALARM
    assert wrong > 0, "a bound never met would say nothing"


def test_several_tasks_are_certified_together() -> None:
    """The largest p-value: it is rare that any task's risk is exceeded, without correction."""
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(DRAWS):
        safe, unsafe = (rng.random(N) < 0.001, rng.random(N) < RISK)
        p = max(binomial(losses.astype(float), RISK, DELTA) for losses in (safe, unsafe))
        wrong += p <= DELTA
    assert binom.sf(wrong - 1, DRAWS, DELTA) > FALSE_ALARM
    assert wrong > 0.3 * DELTA * DRAWS, "and the test is not needlessly strict"
