"""P-values: valid at the border of the hypothesis, exact where they can be, and of use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from dynamax_lm.common.risk_tests import (
    Losses,
    PValue,
    betting,
    betting_on_differences,
    binomial,
)
from tests.hoeffding import hoeffding_bentkus

Draw = Callable[[np.random.Generator, int, float], Losses]
FALSE_ALARM = 1e-9
"""Chance that one of these comparisons fails although the p-values are valid."""


def zero_one(rng: np.random.Generator, n: int, mean: float) -> Losses:
    return (rng.random(n) < mean).astype(float)


def shares(rng: np.random.Generator, n: int, mean: float) -> Losses:
    """Shares of wrong tokens in answers of different lengths and difficulties."""
    rate = rng.beta(3 * mean, 3 * (1 - mean), n)
    tokens = rng.integers(1, 16, n)
    return rng.binomial(tokens, rate) / tokens


def constant(rng: np.random.Generator, n: int, mean: float) -> Losses:
    del rng
    return np.full(n, mean)


def rare_and_whole(rng: np.random.Generator, n: int, mean: float) -> Losses:
    """Nearly always a little, seldom everything: the hardest for a bet on small variance."""
    return np.where(rng.random(n) < mean / 2, 1.0, mean / 2 / (1 - mean / 2))


def differences(rng: np.random.Generator, n: int, mean: float) -> Losses:
    """Answers lost, won and kept."""
    return rng.choice([1.0, -1.0, 0.0], p=[2 * mean, mean, 1 - 3 * mean], size=n)


UNIT: list[tuple[PValue, Draw]] = [
    (binomial, zero_one),
    *((test, draw) for test in (hoeffding_bentkus, betting) for draw in (zero_one, shares)),
    *((test, draw) for test in (hoeffding_bentkus, betting) for draw in (constant, rare_and_whole)),
    *((betting_on_differences, draw) for draw in (differences, shares, rare_and_whole)),
]


def too_many(rejections: int, draws: int, level: float) -> bool:
    """Whether so many rejections would come with probability `FALSE_ALARM` at most."""
    return bool(binom.sf(rejections - 1, draws, level) < FALSE_ALARM)


@pytest.mark.parametrize(("p_value", "draw"), UNIT)
@pytest.mark.parametrize(("n", "risk"), [(40, 0.2), (300, 0.05)])
def test_at_the_border_small_p_values_are_as_rare_as_they_say(
    p_value: PValue, draw: Draw, n: int, risk: float
) -> None:
    rng = np.random.default_rng(5)
    for delta in (0.05, 0.3):
        values = np.array([p_value(draw(rng, n, risk), risk, delta) for _ in range(800)])
        for level in (0.01, 0.05, 0.1, 0.3, 0.7):
            rejections = int((values <= level).sum())
            assert not too_many(rejections, len(values), level), (level, rejections)


def test_the_comparison_would_notice_an_invalid_test() -> None:
    """Bets that look at the document they bet on; a bound of half the size."""

    def peeking(losses: Losses, risk: float, delta: float) -> float:
        bets = np.where(losses < risk, 0.9, 0.0)
        return betting(losses, risk, delta) * float(np.exp(-(bets * (risk - losses)).sum()))

    def halved(losses: Losses, risk: float, delta: float) -> float:
        return binomial(losses, risk, delta) / 2

    rng = np.random.default_rng(5)
    for wrong in (peeking, halved):
        values = [wrong(zero_one(rng, 300, 0.05), 0.05, 0.05) for _ in range(1500)]
        assert too_many(sum(value <= 0.1 for value in values), len(values), 0.1)


@given(st.integers(1, 400), st.floats(0.001, 0.999), st.data())
def test_the_binomial_is_scipys_exact_test(n: int, risk: float, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    losses = np.array([1.0] * lost + [0.0] * (n - lost))
    expected = binomtest(lost, n, risk, alternative="less").pvalue
    assert binomial(losses, risk, 0.05) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.01, 0.9))
def test_hoeffding_bentkus_is_its_definition(values: list[float], risk: float) -> None:
    losses = np.array(values)
    n, mean = len(values), sum(values) / len(values)
    low = min(mean, risk)
    log = low * np.log(low / risk) if low > 0 else 0.0
    log += (1 - low) * np.log((1 - low) / (1 - risk))
    tail = np.e * binom.cdf(np.ceil(n * mean - 1e-9), n, risk)
    got = hoeffding_bentkus(losses, risk, 0.05)
    assert got == pytest.approx(min(1.0, np.exp(-n * log), tail), rel=1e-6)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.floats(0.01, 0.9),
    st.floats(0.01, 0.5),
    st.data(),
)
def test_more_loss_is_never_better_evidence_of_less(
    values: list[float], risk: float, delta: float, data: st.DataObject
) -> None:
    """For tests of the mean; bets depend on the variance too, so theirs are p-values at least."""
    losses = np.array(values)
    more = np.maximum(losses, np.array(data.draw(st.permutations(values))))
    first = hoeffding_bentkus(losses, risk, delta)
    assert hoeffding_bentkus(more, risk, delta) >= first * (1 - 1e-9)
    for p_value in (betting, betting_on_differences):
        assert 0 < p_value(losses, risk, delta) <= 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.02, 0.9))
def test_capital_is_that_of_the_gambler_step_by_step(values: list[float], risk: float) -> None:
    """Against a loop that keeps the books: no bet knows the document it is made on."""
    n, delta = len(values), 0.05
    past = [risk] * 5
    squares = [risk * (1 - risk)] * 5
    capital = largest = 1.0
    for loss in values:
        bet = min(np.sqrt(2 * np.log(1 / delta) / (n * np.mean(squares))), 0.9 / (1 - risk))
        capital *= 1 + bet * (risk - loss)
        largest = max(largest, capital)
        past.append(loss)
        squares.append((loss - np.mean(past)) ** 2)
    got = betting(np.array(values), risk, delta)
    assert got == pytest.approx(1 / largest, rel=1e-6)


def test_betting_has_more_power_on_shares_of_wrong_tokens() -> None:
    """Why it is the one used: how often each certifies 0.05 where the risk is 0.03."""
    rng = np.random.default_rng(0)
    draws = [shares(rng, 300, 0.03) for _ in range(300)]
    certified = {
        p_value: sum(p_value(losses, 0.05, 0.05) <= 0.05 for losses in draws)
        for p_value in (betting, hoeffding_bentkus)
    }
    assert certified[betting] > 2 * certified[hoeffding_bentkus]


def test_losses_that_a_test_is_not_for_are_refused() -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        binomial(np.array([0.0, 0.5]), 0.1, 0.1)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        hoeffding_bentkus(np.array([-0.5]), 0.1, 0.1)
    with pytest.raises(ValueError, match="at most 1"):
        betting(np.array([1.5]), 0.1, 0.1)
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        betting_on_differences(np.array([-2.0]), 0.1, 0.1)
