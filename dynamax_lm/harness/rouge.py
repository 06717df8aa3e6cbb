"""ROUGE of one text: every resample of a single score is that score.

TruthfulQA's scoring, lm-eval's own, aggregates each answer's score with each reference by a
thousand bootstrap resamples of one number, over a second of processor time a document. The result
is the number itself, and drawing from one draws no random bits, so that nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_BOUNDS = 3
"""Low, mid and high."""


def around_bootstrap_resample(original: Callable[..., Any], aggregator: Any, matrix: Any) -> Any:
    """Wraps ``rouge_score.scoring.BootstrapAggregator._bootstrap_resample``.

    Args:
        original: the method.
        aggregator: the aggregator.
        matrix: (samples, measures) scores.
    """
    if matrix.shape[0] == 1:
        return matrix.astype(float).repeat(_BOUNDS, axis=0)
    return original(aggregator, matrix)
