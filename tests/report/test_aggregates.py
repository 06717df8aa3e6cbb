"""Closed forms against lm-eval's own aggregations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api import metrics

from dynamax_lm.report.checks.aggregates import aggregate, mean_stderr

number = st.floats(-50, -0.01)
numbers = st.lists(number, min_size=2, max_size=20)
pairs = st.lists(st.tuples(number, st.integers(1, 50)), min_size=1, max_size=20)


@given(numbers)
def test_of_numbers(values: list[float]) -> None:
    assert aggregate("mean", values) == pytest.approx(metrics.mean(values))
    assert aggregate("perplexity", values) == pytest.approx(metrics.perplexity(values))
    assert mean_stderr(values) == pytest.approx(metrics.mean_stderr(values))


@given(pairs)
def test_of_pairs(values: list[tuple[float, int]]) -> None:
    for name in ("weighted_perplexity", "bits_per_byte"):
        assert aggregate(name, values) == pytest.approx(getattr(metrics, name)(values))


@pytest.mark.parametrize(
    ("kind", "values"),
    [("bleu", [1.0]), ("mean", []), ("mean", ["x"]), ("bits_per_byte", [1.0]), ("mean", [[1, 2]])],
)
def test_what_does_not_follow_is_none(kind: str, values: list[object]) -> None:
    assert aggregate(kind, values) is None
