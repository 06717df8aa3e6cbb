"""The noise experiment, on models of a few numbers."""

from __future__ import annotations

import pytest
import torch

from benchmarks.validity.noise import Likenesses, Size, random_stack, whole_runs
from dynamax_lm.core.trace import AnswerTrace

SMALL = Size(width=128, layers=4, vocabulary=256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_run_in_which_nobody_leaves_agrees_with_full_depth(kind: str, dtype: torch.dtype) -> None:
    stack = random_stack(kind, SMALL, dtype)
    for found in whole_runs(stack, rows=3, prompt=6, new=4):
        assert (found.tokens, found.answers) == (12, 3)
        assert found.after == (1.0, 1.0)
        assert found.before[0] == pytest.approx(1 - found.noise)


def test_before_is_what_the_pass_says() -> None:
    """Two answers; on one token that is full depth's own, the pass emits another."""
    noisy = AnswerTrace(1, (1, 2), (1, 2), (4, 4), (None, None), (1, 2), (1, 7))
    left = AnswerTrace(1, (3, 5), (3, 5), (4, 2), (None, None), (3, 5), (3, None))
    found = Likenesses.of([noisy, left], [True, True])
    assert found.before == (3 / 4, 1 / 2)
    assert found.after == (1.0, 1.0)
    assert found.noise == 1 / 3
