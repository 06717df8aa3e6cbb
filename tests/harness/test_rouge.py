"""Resampling is left out where it can change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.scoring import BootstrapAggregator

from dynamax_lm.harness import install
from dynamax_lm.harness.rouge import around_bootstrap_resample


@pytest.mark.parametrize("rows", [1, 2])
def test_bounds_and_random_state_are_those_of_resampling(rows: int) -> None:
    install.install()
    wrapped = BootstrapAggregator._bootstrap_resample
    original = getattr(wrapped, "__wrapped__", wrapped)
    matrix = np.random.default_rng(0).random((rows, 3))
    found, states = [], []
    for resample in (original, wrapped):
        np.random.seed(1)
        found.append(resample(BootstrapAggregator(), matrix))
        states.append(np.random.random())
    assert np.array_equal(*found)
    assert found[0].shape == (3, 3)
    assert states[0] == states[1]


def test_one_score_is_not_resampled() -> None:
    def never(*_: object) -> None:
        raise AssertionError

    (low, mid, high) = around_bootstrap_resample(never, None, np.array([[0.25, 0.5]]))
    assert low.tolist() == mid.tolist() == high.tolist() == [0.25, 0.5]
    with pytest.raises(AssertionError):
        around_bootstrap_resample(never, None, np.zeros((2, 2)))
