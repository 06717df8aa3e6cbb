"""What thresholds mean, above all those of patience, which has few values to compare with."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.thresholds import agreements_needed, cutoff_of

EXITS = range(2, 33)
TWO_DIGITS = [number / 100 for number in range(1, 100)]


def literal(threshold: float, exits: int) -> int:
    """The fewest agreements whose share is at least the threshold, in exact arithmetic."""
    most = exits - 1
    return next(k for k in range(1, most + 1) if Fraction(k, most) >= Fraction(repr(threshold)))


@pytest.mark.parametrize("exits", EXITS)
def test_a_fraction_written_with_two_digits_is_that_fraction(exits: int) -> None:
    most = exits - 1
    for k in range(1, most):
        for written in {math.floor(100 * k / most) / 100, math.ceil(100 * k / most) / 100}:
            rounded = abs(Fraction(repr(written)) - Fraction(k, most)) <= Fraction(1, 200)
            if rounded and 0 < written < 1:
                assert agreements_needed(written, exits) == k


@pytest.mark.parametrize("exits", EXITS)
def test_a_threshold_between_fractions_keeps_its_meaning(exits: int) -> None:
    changed = {t for t in TWO_DIGITS if agreements_needed(t, exits) != literal(t, exits)}
    for threshold in changed:
        asked = agreements_needed(threshold, exits)
        assert asked == literal(threshold, exits) - 1
        assert 0 < Fraction(repr(threshold)) - Fraction(asked, exits - 1) <= Fraction(1, 200)


@given(st.integers(2, 400), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_at_most_one_agreement_less_and_only_just_above_its_fraction(
    exits: int, threshold: float
) -> None:
    asked, said = agreements_needed(threshold, exits), literal(threshold, exits)
    above = Fraction(repr(threshold)) - Fraction(asked, exits - 1)
    assert said - 1 <= asked <= said
    assert above <= min(Fraction(1, 200), Fraction(1, 2 * (exits - 1)))
    assert 1 <= asked <= exits - 1


@given(st.integers(2, 120), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_asks_for_less(exits: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert cutoff_of(low, "patience", exits) <= cutoff_of(high, "patience", exits)


@pytest.mark.parametrize("exits", EXITS)
def test_the_policy_counts_agreements(exits: int) -> None:
    """In float32, as patience computes its shares, and one by one as in a batch."""
    shares = torch.arange(exits).float() / (exits - 1)
    for threshold in (*TWO_DIGITS, *(k / (exits - 1) for k in range(1, exits - 1))):
        policy = ExitPolicy(tuple(range(1, exits + 1)), "patience", threshold)
        needed = agreements_needed(threshold, exits)
        expected = [k >= needed for k in range(exits)]
        assert policy.exiting(shares).tolist() == expected
        assert policy.exiting(shares, policy.cutoffs([threshold] * exits)).tolist() == expected


@given(st.sampled_from(["top_prob", "margin", "head"]), st.floats(0, 1), st.integers(1, 9))
def test_other_measures_are_compared_with_the_threshold_itself(
    confidence: str, threshold: float, exits: int
) -> None:
    inside = 0 < threshold < 1
    expected = threshold if inside else -math.inf if threshold <= 0 else math.inf
    assert cutoff_of(threshold, confidence, exits) == expected
