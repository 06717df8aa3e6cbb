"""Bins and ranking against brute force, edge cases included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.reliability import BINS, calibration_error, ranking, reliability

confidences = st.floats(0, 1) | st.sampled_from([number / BINS for number in range(BINS + 1)])
samples = st.lists(st.tuples(confidences, st.booleans()), max_size=40)


@given(samples)
def test_every_token_is_in_the_bin_that_holds_its_confidence(
    pairs: list[tuple[float, bool]],
) -> None:
    table = reliability(np.array([c for c, _ in pairs]), np.array([y for _, y in pairs], bool))
    assert sum(row.tokens for row in table) == len(pairs)
    for row in table:
        inside = [(c, y) for c, y in pairs if min(BINS - 1, int(c * BINS)) == round(row.low * BINS)]
        assert row.tokens == len(inside)
        assert row.confidence == pytest.approx(sum(c for c, _ in inside) / len(inside))
        assert row.right == pytest.approx(sum(y for _, y in inside) / len(inside))
        assert row.low - 1e-9 <= row.confidence <= row.high + 1e-9
    if pairs:
        assert 0 <= calibration_error(table) <= 1


def test_confidences_that_are_met_have_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    right = rng.random(20_000) < confidence
    table = reliability(confidence, right)
    assert all(abs(row.confidence - row.right) < 0.1 for row in table)
    assert calibration_error(table) < 0.02
    assert reliability(np.array([1.0, 0.0]), np.array([True, False]))[-1].right == 1.0


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=30))
def test_ranking_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([float(z) for z, _ in pairs])
    right = np.array([y for _, y in pairs], dtype=bool)
    compared = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    expected = np.mean(compared) if compared else 0.5
    assert ranking(scores, right) == pytest.approx(expected)
