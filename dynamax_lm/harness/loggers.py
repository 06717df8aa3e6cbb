"""Adds columns of the added metrics to W&B's tables of samples.

lm-eval passes every added metric to its loggers, with one exception: W&B's table of a task's
samples has a column for each metric in the task's configuration, which does not list added metrics.
This module adds the columns to the finished table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.harness.reference import PREFIX
from dynamax_lm.harness.responses import record_of

_WEIGHTED = {"word_perplexity": "words", "byte_perplexity": "bytes", "bits_per_byte": "bytes"}
"""Metrics of (log-likelihood, weight) pairs, which lm-eval splits into two columns."""


def around_generate_dataset(
    original: Callable[..., Any], logger: Any, data: Any, config: Any
) -> Any:
    """Wraps ``WandbLogger._generate_dataset``, whose data frame becomes the table."""
    frame = original(logger, data, config)
    if _has_records(data):
        for name, values in _columns(data):
            if name not in frame:  # a task's own metric wins, as in the results
                frame[name] = values
                column = frame[name].astype(object)  # None, where pandas would put NaN
                frame[name] = column.where(column.notna(), None)
    return frame


def _has_records(samples: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the responses carry records; tables of other models are not changed."""
    first = samples[:1]
    return any(record_of(answer) for one in first for answers in one["resps"] for answer in answers)


def _columns(samples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Each added metric by sample; only samples of a task's first filter have them."""
    for key in dict.fromkeys(key for sample in samples for key in sample["metrics"]):
        values = [sample.get(key) for sample in samples]
        metric = key.removeprefix(PREFIX)
        if key in HIGHER_IS_BETTER or (key != metric and metric not in _WEIGHTED):
            yield key, values
        elif key != metric:
            pairs = [(None, None) if value is None else value for value in values]
            yield f"{key}_loglikelihood", [pair[0] for pair in pairs]
            yield f"{key}_{_WEIGHTED[metric]}", [pair[1] for pair in pairs]
