"""Paired differences of two settings on the same documents, with intervals.

Means over different documents are never subtracted; reasons for refusing a comparison are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.intervals import FEWEST, LEVEL, Bounds, mean_interval, p_at_least, p_at_most
from dynamax_lm.common.passages import Units
from dynamax_lm.core.summary import agreement_without_text
from dynamax_lm.report.bounds import bounds_of
from dynamax_lm.report.conditions import conditions_of
from dynamax_lm.report.depth_bills import Account
from dynamax_lm.report.equal_cost import Path, at_equal_cost
from dynamax_lm.report.load import Library
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX, Row
from dynamax_lm.report.runs import MetricKey, Run, Sample, Value
from dynamax_lm.report.static_baseline import FULL_DEPTH, OWN_FULL_DEPTH, StaticBaseline

AGREEMENT = "agreement"
SAVED: dict[Account, str] = {"answer": "flops_saved", "total": "flops_saved_total"}
"""By account, the metric of a document's saving."""


class Difference(NamedTuple):
    """The mean of paired differences, and inference about its expectation.

    Attributes:
        documents: number of pairs.
        units: number of independent units: documents, or groups that share a passage.
        mean: of the differences, first minus second.
        low: lower end of the interval; minus infinity where there is none.
        high: upper end, likewise.
        p_higher: p-value of the hypothesis that the true mean is zero or less; small where the
            first is higher. 1 where there is no interval.
        p_lower: the same of zero or more; small where the first is lower.
        differing: number of pairs that differ.
    """

    documents: int
    units: int
    mean: float
    low: float
    high: float
    p_higher: float
    p_lower: float
    differing: int

    @property
    def tested(self) -> bool:
        """Whether the pairs suffice, and are bounded, for an interval."""
        return math.isfinite(self.low)


class MismatchError(SettingError):
    """Two runs that cannot be paired, with the reason."""


Shown = Literal["higher", "lower", ""]


class Comparison(NamedTuple):
    """One setting against another, or the reason why they are not compared.

    Attributes:
        row: the setting.
        metric: the compared metric: the task's, or agreement.
        against: the other setting, in words.
        difference: first minus second; ``None`` where refused.
        reason: why it was refused, or has no interval; empty otherwise.
        shown: the significant direction, corrected for all comparisons of the page.
    """

    row: Row
    metric: str
    against: str
    difference: Difference | None
    reason: str
    shown: Shown = ""

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for the same comparison: the metrics of a task share one agreement."""
        row = self.row
        return row.run.path, row.task, row.key.filter, self.metric, self.against


def difference(
    first: Sequence[float],
    second: Sequence[float],
    bounds: Bounds | None,
    *,
    units: Units | None = None,
    level: float = LEVEL,
) -> Difference:
    """The paired difference of two equally long lists of per-document values.

    Args:
        first: one value for each document.
        second: the other setting's value for the same document.
        bounds: of every value by definition; ``None`` if unknown.
        units: of the documents; ``None`` if each is its own.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: no documents, lists of different length, or a value outside ``bounds``.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"pairs need two equal, non-empty lists; got {len(first)}, {len(second)}")
    gaps = np.asarray(np.subtract(first, second), dtype=np.float64)
    mean, differing, documents = float(gaps.mean()), int(np.count_nonzero(gaps)), len(gaps)
    limits = None if bounds is None else bounds.of_gaps
    if units is not None:
        gaps, limits = units.values(gaps), None if limits is None else units.bounds(limits)
    found = None if limits is None else mean_interval(gaps, limits, level=level)
    if limits is None or found is None:
        return Difference(documents, len(gaps), mean, -math.inf, math.inf, 1.0, 1.0, differing)
    higher, lower = p_at_most(gaps, 0.0, limits), p_at_least(gaps, 0.0, limits)
    return Difference(documents, len(gaps), mean, *found, higher, lower, differing)


def against_full_depth(library: Library, row: Row) -> Comparison:
    """The row's metric against the same metric on its own run's full-depth answers."""
    against = OWN_FULL_DEPTH
    try:
        samples = _samples(library, row.run, row.task, row.key.filter)
        pairs = [
            (s.number(row.key.metric), s.number(FULL_DEPTH_PREFIX + row.key.metric))
            for s in samples
        ]
        gap = _difference(pairs, row.key.metric, (row.quality, row.full_depth), units_of(samples))
        return _comparison(row, row.key.metric, against, gap)
    except MismatchError as error:
        return Comparison(row, row.key.metric, against, None, str(error))


def against_run(library: Library, row: Row, other: Row) -> Comparison:
    """The row's metric against another run's, document by document."""
    metric = row.key.metric
    try:
        found = compare(library, row.run, other.run, row.task, row.key)
        return _comparison(row, metric, other.name, found)
    except MismatchError as error:
        return Comparison(row, metric, other.name, None, str(error))


def mean_cost(library: Library, row: Row, account: Account) -> float | None:
    """The row's mean share of full depth's FLOPs over the documents that are paired.

    The published saving leaves out documents without text; here, as in differences at equal cost,
    they count with what their stop cost. ``None`` where samples do not say.
    """
    saved = _mean_of(library, row, SAVED[account])
    return None if saved is None else 1 - saved


def mean_agreement(library: Library, row: Row) -> float | None:
    """The row's mean agreement over the documents that are paired; see `mean_cost`."""
    return _mean_of(library, row, AGREEMENT)


def _mean_of(library: Library, row: Row, metric: str) -> float | None:
    try:
        values = _values(library, row, metric)
    except MismatchError:
        return None
    return sum(values.values()) / len(values)


def against_static(library: Library, row: Row, baseline: StaticBaseline) -> list[Comparison]:
    """The row's metric and agreement against a static baseline's, document by document.

    Between two measured depths the baseline draws one of them for each document, with odds at which
    its cost is equal. A document's gap to it is then random; its conditional expectation is the
    mean over the two depths. These expectations are compared: over documents they have the same
    true mean as the gaps of any draw, and the same bounds, so that an interval for bounded values
    is valid for the drawn baseline too, without the variance of one draw. (An interval from the
    sample variance of few such gaps is not: they are mostly slightly above zero and rarely far
    below it.)
    """
    comparisons = []
    for metric in (row.key.metric, AGREEMENT):
        try:
            ours = _values(library, row, metric)
            if baseline.source == FULL_DEPTH:
                full = _part(library, row, None, metric)
                units = _row_units(library, row, list(ours))
                gap = _bounded([ours[n] for n in ours], [full[n] for n in ours], metric, units)
            else:
                gap = _at_equal_cost(library, row, baseline, metric, ours)
            comparisons.append(_comparison(row, metric, baseline.name, gap))
        except MismatchError as error:
            comparisons.append(Comparison(row, metric, baseline.name, None, str(error)))
    return comparisons


def _at_equal_cost(
    library: Library, row: Row, baseline: StaticBaseline, metric: str, ours: Mapping[int, float]
) -> Difference:
    saved = _values(library, row, SAVED[baseline.account])
    if set(saved) != set(ours) or baseline.costs is None:
        raise MismatchError("what each document cost, or can cost, is not known")
    known = metric == AGREEMENT or row.full_depth is not None
    points = [(part, share) for part, share in baseline.path if known or part is not None]
    parts = []
    for part, _ in points:
        values = _part(library, row, part, metric)
        parts.append([values[number] for number in ours])
    costs, at_depths = np.asarray([share for _, share in points]), np.asarray(parts)
    path = Path(costs, at_depths, whole=known)
    bounds, spent = bounds_of(metric), [1 - saved[number] for number in ours]
    mine, spendable = list(ours.values()), baseline.costs
    mixed = path.best(float(np.mean(spent)))
    differing = int(np.count_nonzero(mine - mixed))
    units = _row_units(library, row, list(ours))
    if bounds is None:
        return difference(mine, mixed.tolist(), None, units=units)
    try:
        if units is not None:
            path = replace(path, values=units.values(at_depths))
            mine, spent = units.values(mine).tolist(), units.values(spent).tolist()
            bounds, spendable = units.bounds(bounds), units.bounds(spendable)
        found = at_equal_cost(mine, path, spent, bounds, spendable)
    except ValueError as error:
        raise MismatchError(f"{metric} is not what its name says: {error}") from error
    mean = float(found.gaps.mean())
    inference = found.low, found.high, found.p_higher, found.p_lower
    return Difference(len(ours), len(found.gaps), mean, *inference, differing)


def compare(library: Library, first: Run, second: Run, task: str, key: MetricKey) -> Difference:
    """The paired difference of one metric between two runs.

    Raises:
        MismatchError: different conditions, or no values of single documents.
    """
    ours, theirs = _paired(library, first, second, task, key.filter)
    order = sorted(ours)
    pairs = [(ours[n].number(key.metric), theirs[n].number(key.metric)) for n in order]
    published = (first.values(task).get(key), second.values(task).get(key))
    return _difference(pairs, key.metric, published, units_of([ours[n] for n in order]))


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
    if metric == AGREEMENT:
        return dict.fromkeys(_values(library, row, metric), 1.0)
    return _values(library, row, FULL_DEPTH_PREFIX + metric)


def _values(library: Library, row: Row, metric: str) -> dict[int, float]:
    values, averaged = {}, []
    for sample in _samples(library, row.run, row.task, row.key.filter):
        number = sample.number(metric)
        if number is not None:
            averaged.append(number)
        elif metric != SAVED["total"] or row.run.settings.get("prompt_exit") is None:
            number = _without_text(sample, metric)  # the published mean excludes such documents
        if number is None:
            raise MismatchError(f"{metric} is not one number a document in both")
        values[sample.doc_id] = number
    if not averaged:
        raise MismatchError(f"no document has {metric} under the filter {row.key.filter}")
    published = row.run.values(row.task).get(MetricKey(metric, row.key.filter))
    _check_mean(averaged, metric, published)
    return values


def _without_text(sample: Sample, metric: str) -> float | None:
    """Values of a document without text: agreement and cost of its stop sequence.

    By the account with prompts such a document costs as much as at full depth: its prompt.
    """
    if metric == SAVED["total"]:
        return None if sample.number(f"{SAVED['answer']}_with_stop") is None else 0.0
    if metric not in {AGREEMENT, SAVED["answer"]}:
        return None
    stop = sample.number(f"{metric}_with_stop")
    return agreement_without_text(stop) if stop is not None and metric == AGREEMENT else stop


def _samples(library: Library, run: Run, task: str, name: str) -> list[Sample]:
    samples = library.samples(run, task)
    if samples is None:
        raise MismatchError(f"{run.path.name} has no readable samples; run with --log_samples")
    return [sample for sample in samples if sample.filter == name]


def units_of(samples: Sequence[Sample]) -> Units | None:
    """Units of the documents of ``samples``; ``None`` if each is its own.

    Documents that share a passage are one unit; what shares a group is told by the records logged.
    """
    return Units.by_keys([one.shared for one in samples])


def _row_units(library: Library, row: Row, documents: Sequence[int]) -> Units | None:
    """Units of the ``documents``, in their order."""
    samples = _by_document(_samples(library, row.run, row.task, row.key.filter))
    return units_of([samples[number] for number in documents])


def _by_document(samples: Sequence[Sample]) -> Mapping[int, Sample]:
    return {sample.doc_id: sample for sample in samples}


def _difference(
    pairs: Sequence[tuple[float | None, float | None]],
    metric: str,
    published: tuple[Value | None, Value | None],
    units: Units | None,
) -> Difference:
    """The difference, if both published values are means and it equals theirs."""
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(both) != len(pairs) or not both:
        raise MismatchError(f"{metric} is not one number a document in both")
    first, second = zip(*both, strict=True)
    _check_mean(first, metric, published[0])
    _check_mean(second, metric, published[1])
    return _bounded(first, second, metric, units)


def _bounded(
    first: Sequence[float], second: Sequence[float], metric: str, units: Units | None
) -> Difference:
    """The difference with the bounds of the metric's definition, if the values are within them."""
    try:
        return difference(first, second, bounds_of(metric), units=units)
    except ValueError as error:
        raise MismatchError(f"{metric} is not what its name says: {error}") from error


def _comparison(row: Row, metric: str, against: str, gap: Difference) -> Comparison:
    reason = ""
    if bounds_of(metric) is None:
        reason = f"not bounded: no interval, no verdict; the range of {metric} is unknown"
    elif not gap.tested:
        of = "documents" if gap.units == gap.documents else "passages"
        reason = f"fewer than {FEWEST} {of} give no verdict"
    return Comparison(row, metric, against, gap, reason)


def _check_mean(numbers: Sequence[float], metric: str, published: Value | None) -> None:
    mean = sum(numbers) / len(numbers)
    if published is None or not math.isclose(mean, published.mean, rel_tol=1e-6, abs_tol=1e-9):
        raise MismatchError(f"{metric} is not the mean of its documents, and has no differences")
