"""Closed forms of lm-eval's aggregations over logged values of documents.

Others (corpus BLEU, those of a task's own code) are not recomputed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dynamax_lm.common.validation import is_finite


def mean(values: Sequence[float]) -> float:
    """The mean over documents."""
    return sum(values) / len(values)


def mean_stderr(values: Sequence[float]) -> float:
    """Its standard error, from the sample's standard deviation; at least two documents."""
    centre, count = mean(values), len(values)
    return math.sqrt(sum((x - centre) ** 2 for x in values) / (count - 1) / count)


def _perplexity(values: Sequence[float]) -> float:
    return math.exp(-mean(values))


def _per_unit(pairs: Sequence[tuple[float, float]]) -> float:
    """Log-likelihood by word or byte, from both sums of each document."""
    return sum(total for total, _ in pairs) / sum(units for _, units in pairs)


_OF_NUMBERS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": mean,
    "perplexity": _perplexity,
}
_OF_PAIRS: Mapping[str, Callable[[Sequence[tuple[float, float]]], float]] = {
    "weighted_perplexity": lambda pairs: math.exp(-_per_unit(pairs)),
    "bits_per_byte": lambda pairs: -_per_unit(pairs) / math.log(2),
}


def aggregate(kind: str, values: Sequence[Any]) -> float | None:
    """The aggregate of documents' logged values.

    Args:
        kind: lm-eval's name of the aggregation.
        values: a number for each document, or a pair of sums.

    Returns:
        ``None`` for another aggregation, or a value of another form.
    """
    if not values:
        return None
    if kind in _OF_NUMBERS and all(isinstance(v, bool) or is_finite(v) for v in values):
        return _OF_NUMBERS[kind]([float(v) for v in values])
    if kind in _OF_PAIRS and all(_is_pair(v) for v in values):
        return _OF_PAIRS[kind]([(float(a), float(b)) for a, b in values])
    return None


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_finite, value))
