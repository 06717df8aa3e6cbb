"""Intervals of shares of tokens cover the true share where tokens of a document are alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dynamax_lm.common.clustered_share import _wilson, clustered_share


@pytest.mark.parametrize(("tokens", "right"), [(10, 0), (10, 3), (200, 199), (7, 7)])
def test_whole_numbers_give_the_interval_of_scipy(tokens: int, right: int) -> None:
    exact = stats.binomtest(right, tokens).proportion_ci(method="wilson")
    ours = _wilson(right / tokens, tokens, float(stats.norm.ppf(0.975)))
    assert tuple(ours) == pytest.approx((exact.low, exact.high))


def test_one_document_says_nothing_and_identical_tokens_count_once() -> None:
    right = np.array([True] * 30)
    assert clustered_share(right, np.zeros(30, dtype=np.int64)) == (0.0, 1.0)
    each = clustered_share(right, np.arange(30))
    pairs = clustered_share(right, np.arange(30) // 2)
    assert pairs.low < each.low
    assert pairs.high == pytest.approx(1.0)
    assert each.high == pytest.approx(1.0)
