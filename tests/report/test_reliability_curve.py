"""Bins of confidence against brute force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.reliability import BINS
from dynamax_lm.common.tracefile import TraceLine
from dynamax_lm.report.reliability import reliability_curve

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


def test_tokens_of_one_document_determine_less_than_those_of_many() -> None:
    def curve(documents: int) -> float:
        lines = [
            TraceLine(
                "t", i % documents, 0, 0, 0, i, 7, 7, 3, 0.5, 7 + (i % documents % 2), 2, None
            )
            for i in range(40)
        ]
        (one,) = reliability_curve("x", lines, 8).bins
        return one.high - one.low

    assert curve(1) == 1.0 > curve(4) > curve(40)
