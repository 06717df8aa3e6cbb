"""Bounds are a metric's by definition: real tasks keep them, unknown ones have none."""

from __future__ import annotations

import pytest

from dynamax_lm.report.bounds import bounds_of


def test_truthfulqas_scores_keep_their_bounds() -> None:
    """lm-eval's own scores of the worst and the best answer there can be."""
    from lm_eval.tasks.truthfulqa.utils import process_results_gen

    doc = {"correct_answers": ["a b c d e"], "incorrect_answers": ["v w x y z"]}
    for answer in ("a b c d e", "v w x y z", "nothing of these", ""):
        for metric, value in process_results_gen(doc, [answer]).items():
            bounds = bounds_of(metric)
            assert bounds is not None
            assert bounds.low - 1e-6 <= value <= bounds.high + 1e-6


@pytest.mark.parametrize("metric", ["perplexity", "word_perplexity", "bits_per_byte", "my_score"])
def test_what_nobody_defines_here_has_none(metric: str) -> None:
    assert bounds_of(metric) is None
