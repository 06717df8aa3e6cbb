"""Differences of two settings on the very same documents, with bootstrap intervals.

Owns the pairing, and the reasons for refusing one. Two means over different documents differ for
reasons that have nothing to do with the setting; they are never subtracted here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dynamax_lm.errors import SettingError
from dynamax_lm.intervals import LEVEL, mean_interval
from dynamax_lm.report.conditions import conditions_of
from dynamax_lm.report.load import Library
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX, Row
from dynamax_lm.report.runs import MetricKey, Run, Sample, Value
from dynamax_lm.report.static import StaticRival

_AGREEMENT = "agreement"


class Difference(NamedTuple):
    """The mean of paired differences, and a bootstrap interval over documents.

    Attributes:
        documents: how many pairs.
        mean: of the differences, first minus second.
        low: lower end of the interval; minus infinity where documents are too few for one.
        high: upper end, likewise.
    """

    documents: int
    mean: float
    low: float
    high: float


class MismatchError(SettingError):
    """Two runs that cannot be paired; says why."""


class Comparison(NamedTuple):
    """One setting against another, or why they were not compared.

    Attributes:
        row: the setting.
        metric: what is compared: the task's metric, or agreement.
        against: what it is held against, in words.
        difference: first minus second; ``None`` where refused.
        reason: why it was refused; empty otherwise.
    """

    row: Row
    metric: str
    against: str
    difference: Difference | None
    reason: str


def difference(
    first: Sequence[float], second: Sequence[float], *, level: float = LEVEL
) -> Difference:
    """The paired difference of two equally long lists of per-document values.

    Args:
        first: one value a document.
        second: the other setting's value for the same document.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: no documents, or lists of different length.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"pairs need two equal, non-empty lists; got {len(first)}, {len(second)}")
    gaps = np.subtract(first, second)
    mean = float(gaps.mean())
    if len(gaps) > 1 and not np.ptp(gaps):
        return Difference(len(gaps), mean, mean, mean)
    low, high = mean_interval(gaps, level=level) or (-math.inf, math.inf)
    return Difference(len(gaps), mean, low, high)


def against_full_depth(library: Library, row: Row) -> Comparison:
    """The row's metric against the same metric on its own run's full-depth answers."""
    against = "its own full depth"
    try:
        samples = _samples(library, row.run, row.task, row.key.filter)
        pairs = [
            (s.number(row.key.metric), s.number(FULL_DEPTH_PREFIX + row.key.metric))
            for s in samples
        ]
        gap = _difference(pairs, row.key.metric, (row.quality, row.full_depth))
        return Comparison(row, row.key.metric, against, gap, "")
    except MismatchError as error:
        return Comparison(row, row.key.metric, against, None, str(error))


def against_run(library: Library, row: Row, other: Row) -> Comparison:
    """The row's metric against another run's, document by document."""
    metric = row.key.metric
    try:
        found = compare(library, row.run, other.run, row.task, row.key)
        return Comparison(row, metric, other.name, found, "")
    except MismatchError as error:
        return Comparison(row, metric, other.name, None, str(error))


def against_static(library: Library, row: Row, rival: StaticRival) -> list[Comparison]:
    """The row's metric and agreement against its static rival's, document by document.

    Between two measured depths, a document's value is the two depths' own, weighted.
    """
    comparisons = []
    against = f"static depth {rival.depth:.1f}"
    for metric in (row.key.metric, _AGREEMENT):
        try:
            ours = _values(library, row, metric)
            mixed = dict.fromkeys(ours, 0.0)
            for part, weight in rival.mixture:
                theirs = _part(library, row, part, metric)
                for number in ours:
                    mixed[number] += weight * theirs[number]
            found = difference([ours[n] for n in ours], [mixed[n] for n in ours])
            comparisons.append(Comparison(row, metric, against, found, ""))
        except MismatchError as error:
            comparisons.append(Comparison(row, metric, against, None, str(error)))
    return comparisons


def compare(library: Library, first: Run, second: Run, task: str, key: MetricKey) -> Difference:
    """The paired difference of one metric between two runs.

    Raises:
        MismatchError: they were not asked the same, or do not say what each document got.
    """
    ours, theirs = _paired(library, first, second, task, key.filter)
    pairs = [(ours[n].number(key.metric), theirs[n].number(key.metric)) for n in sorted(ours)]
    published = (first.values(task).get(key), second.values(task).get(key))
    return _difference(pairs, key.metric, published)


def _paired(
    library: Library, first: Run, second: Run, task: str, name: str
) -> tuple[Mapping[int, Sample], Mapping[int, Sample]]:
    """Both runs' samples by document, the same ones in both."""
    if reason := conditions_of(first, task).differ(conditions_of(second, task)):
        raise MismatchError(reason)
    ours = _by_document(_samples(library, first, task, name))
    theirs = _by_document(_samples(library, second, task, name))
    if set(ours) != set(theirs):
        missing = len(set(ours) ^ set(theirs))
        raise MismatchError(f"other samples: {missing} documents are in only one of the runs")
    for number, sample in ours.items():
        if sample.hashes != theirs[number].hashes:
            raise MismatchError(f"other samples or prompts: document {number} is not the same")
    return ours, theirs


def _part(library: Library, row: Row, part: Row | None, metric: str) -> dict[int, float]:
    """One measured depth's values for the documents of ``row``; full depth's for ``None``."""
    if part is not None:
        _paired(library, row.run, part.run, row.task, row.key.filter)
        return _values(library, part, metric)
    if metric == _AGREEMENT:
        return dict.fromkeys(_values(library, row, metric), 1.0)
    return _values(library, row, FULL_DEPTH_PREFIX + metric)


def _values(library: Library, row: Row, metric: str) -> dict[int, float]:
    values = {}
    for sample in _samples(library, row.run, row.task, row.key.filter):
        number = sample.number(metric)
        if number is None:
            raise MismatchError(f"{metric} is not one number a document in both")
        values[sample.doc_id] = number
    if not values:
        raise MismatchError(f"no document has {metric} under the filter {row.key.filter}")
    published = row.run.values(row.task).get(MetricKey(metric, row.key.filter))
    _check_mean(list(values.values()), metric, published)
    return values


def _samples(library: Library, run: Run, task: str, name: str) -> list[Sample]:
    samples = library.samples(run, task)
    if samples is None:
        raise MismatchError(f"{run.path.name} has no readable samples; run with --log_samples")
    return [sample for sample in samples if sample.filter == name]


def _by_document(samples: Sequence[Sample]) -> Mapping[int, Sample]:
    return {sample.doc_id: sample for sample in samples}


def _difference(
    pairs: Sequence[tuple[float | None, float | None]],
    metric: str,
    published: tuple[Value | None, Value | None],
) -> Difference:
    """The difference, if it is that of the two published values: both must be means."""
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(both) != len(pairs) or not both:
        raise MismatchError(f"{metric} is not one number a document in both")
    first, second = zip(*both, strict=True)
    _check_mean(first, metric, published[0])
    _check_mean(second, metric, published[1])
    return difference(first, second)


def _check_mean(numbers: Sequence[float], metric: str, published: Value | None) -> None:
    mean = sum(numbers) / len(numbers)
    if published is None or not math.isclose(mean, published.mean, rel_tol=1e-6, abs_tol=1e-9):
        raise MismatchError(f"{metric} is not the mean of its documents, and has no differences")
