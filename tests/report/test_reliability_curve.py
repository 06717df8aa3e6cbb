"""Bins of confidence against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dynamax_lm.common.reliability import BINS, Bin
from dynamax_lm.common.tracefile import TraceLine
from dynamax_lm.report.reliability import _share, reliability_curve

token = st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from([3, 5, 8]))


@given(st.lists(token, max_size=40))
def test_each_token_that_left_early_is_in_the_bin_of_its_confidence(
    tokens: list[tuple[float, bool, int]],
) -> None:
    lines = [
        TraceLine("t", 0, 0, 0, 0, i, 7, 7, layers, confidence, 7 if same else 8, 2, None)
        for i, (confidence, same, layers) in enumerate(tokens)
    ]
    early = [(c, same) for c, same, layers in tokens if layers < 8]
    curve = reliability_curve("x", lines, 8)
    assert sum(one.tokens for one in curve.bins) == len(early)
    assert sum(one.agreement * one.tokens for one in curve.bins) == pytest.approx(
        sum(same for _, same in early)
    )
    for one in curve.bins:
        assert 0 <= one.low <= one.agreement + 1e-9
        assert one.agreement - 1e-9 <= one.high <= 1
    confidences = [one.confidence for one in curve.bins]
    assert confidences == sorted(confidences)
    assert len(curve.bins) <= BINS


def test_tokens_without_a_reference_say_nothing() -> None:
    line = TraceLine("t", 0, 0, 0, 0, 0, 7, 7, 3, 0.5, None, 2, None)
    assert reliability_curve("x", [line], 8).bins == []


@pytest.mark.parametrize("tokens", [10, 40, 200])
def test_bands_cover_the_true_share_as_often_as_they_say(tokens: int) -> None:
    """Exact coverage of independent tokens, over every number of agreeing ones.

    A Wilson interval's coverage oscillates about 95 % with the true share, and stays above 83 %; so
    it is the mean over shares that must be 95 %.
    """
    bands = [_share(Bin(0.5, 0.6, tokens, 0.55, right / tokens)) for right in range(tokens + 1)]
    low, high = np.array([one.low for one in bands]), np.array([one.high for one in bands])
    coverage = []
    for share in np.linspace(0.02, 0.98, 193):
        chance = stats.binom.pmf(np.arange(tokens + 1), tokens, share)
        coverage.append(float(chance[(low <= share) & (share <= high)].sum()))
    assert 0.945 <= np.mean(coverage) <= 0.96
    assert min(coverage) >= 0.83
