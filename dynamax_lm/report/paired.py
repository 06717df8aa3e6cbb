"""Paired differences of two settings on the same documents, with intervals.

Means over different documents are never subtracted; reasons for refusing a comparison are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from dynamax_lm.common.intervals import FEWEST
from dynamax_lm.common.passages import Units
from dynamax_lm.report.bounds import bounds_of
from dynamax_lm.report.depth_bills import Account
from dynamax_lm.report.difference import Difference, difference
from dynamax_lm.report.document_values import (
    AGREEMENT,
    SAVED,
    MismatchError,
    check_mean,
    paired_samples,
    part_values,
    row_units,
    samples_of,
    units_of,
    values_of,
)
from dynamax_lm.report.equal_cost import Path, at_equal_cost
from dynamax_lm.report.load import Library
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX, Row
from dynamax_lm.report.runs import MetricKey, Run, Value
from dynamax_lm.report.static_baseline import FULL_DEPTH, OWN_FULL_DEPTH, StaticBaseline

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


def against_full_depth(library: Library, row: Row) -> Comparison:
    """The row's metric against the same metric on its own run's full-depth answers."""
    against = OWN_FULL_DEPTH
    try:
        samples = samples_of(library, row.run, row.task, row.key.filter)
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
        values = values_of(library, row, metric)
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
            ours = values_of(library, row, metric)
            if baseline.source == FULL_DEPTH:
                full = part_values(library, row, None, metric)
                units = row_units(library, row, list(ours))
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
    saved = values_of(library, row, SAVED[baseline.account])
    if set(saved) != set(ours) or baseline.costs is None:
        raise MismatchError("what each document cost, or can cost, is not known")
    known = metric == AGREEMENT or row.full_depth is not None
    points = [(part, share) for part, share in baseline.path if known or part is not None]
    parts = []
    for part, _ in points:
        values = part_values(library, row, part, metric)
        parts.append([values[number] for number in ours])
    costs, at_depths = np.asarray([share for _, share in points]), np.asarray(parts)
    path = Path(costs, at_depths, whole=known)
    bounds, spent = bounds_of(metric), [1 - saved[number] for number in ours]
    mine, spendable = list(ours.values()), baseline.costs
    mixed = path.best(float(np.mean(spent)))
    differing = int(np.count_nonzero(mine - mixed))
    units = row_units(library, row, list(ours))
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
    ours, theirs = paired_samples(library, first, second, task, key.filter)
    order = sorted(ours)
    pairs = [(ours[n].number(key.metric), theirs[n].number(key.metric)) for n in order]
    published = (first.values(task).get(key), second.values(task).get(key))
    return _difference(pairs, key.metric, published, units_of([ours[n] for n in order]))


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
    check_mean(first, metric, published[0])
    check_mean(second, metric, published[1])
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
