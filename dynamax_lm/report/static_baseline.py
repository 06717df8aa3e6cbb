"""Static baselines of a dynamic setting: the fixed depths of equal cost, and the verdict.

A baseline is a model of fewer layers, billed as one (`depth_bills`). There are two: one of equal
FLOPs over answer tokens, without prompts, and one with prompts in both.

Costs are equal if the mean over documents of the share of full depth's FLOPs is, the number that
tables give as saved. Exit depths and answer lengths vary between documents, and a baseline has one
depth, or draws one of two, for all of them. Its quality is measured, or that of the best mixture of
two measured depths, or unknown; the best mixture may be another for quality than for agreement.
Verdicts are from paired documents alone, against every mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from dynamax_lm.common.intervals import Bounds
from dynamax_lm.report.cost_bounds import cost_bounds
from dynamax_lm.report.depth_bills import ACCOUNTS, Account, DepthBill, bill_of, translator_flops
from dynamax_lm.report.equal_cost import mixtures
from dynamax_lm.report.labels import depth_text
from dynamax_lm.report.rows import Row, static_depth

Verdict = Literal[
    "beats", "mixed", "not distinguishable", "is worse", "does not beat", "not tested", "unknown"
]
"""``does not beat``: not significantly better than full depth, which costs less. ``not tested``:
measured, but no document can be paired. ``unknown``: not measured."""

FULL_DEPTH = "full depth is cheaper"
"""The source of a baseline that is full depth itself."""
OWN_FULL_DEPTH = "its own full depth"
"""The name of the row's own reference in comparisons."""


@dataclass(frozen=True, slots=True)
class StaticBaseline:
    """The fixed depth of equal FLOPs.

    Attributes:
        account: which FLOPs are equal.
        depth: decoder layers, 1..L, may be fractional; L where full depth costs less.
        quality: the task's metric there, or ``None`` where no static runs enclose the depth.
        agreement: with full depth, or ``None`` likewise.
        source: of the two values, in words.
        verdict: on the dynamic setting; ``beats`` requires that no metric is significantly worse.
        told_by: the metrics of the verdict.
        row_agreement: of the setting itself on the documents of ``agreement``: all that were
            paired, including those without text, which the published mean leaves out.
        mixture: the two measured depths of equal cost that agree most, each with its odds: a
            baseline that draws one of the two for each document has equal cost. ``None`` is full
            depth; empty where nothing was measured.
        path: every measured depth with its cost as a share of full depth's, ascending.
        costs: bounds of one document's share of full depth's FLOPs under the setting; ``None`` if
            the costs of its heads are unknown.
    """

    account: Account
    depth: float
    quality: float | None
    agreement: float | None
    source: str
    verdict: Verdict
    mixture: tuple[tuple[Row | None, float], ...] = ()
    path: tuple[tuple[Row | None, float], ...] = ()
    costs: Bounds | None = None
    told_by: tuple[str, ...] = ()
    row_agreement: float | None = None

    @property
    def name(self) -> str:
        """Its name in words, equal for the same baseline of either account."""
        if self.source == FULL_DEPTH:
            return OWN_FULL_DEPTH
        return f"fixed depth {depth_text(self.depth)} of equal {self.account} FLOPs"


@dataclass(frozen=True, slots=True)
class _Point:
    """A measured depth, and its cost."""

    depth: float
    flops: float
    goodness: float | None
    agreement: float | None
    row: Row | None = None


def static_baselines(
    row: Row, group: Sequence[Row], spent: Mapping[Account, float | None] | None = None
) -> tuple[StaticBaseline, ...]:
    """The baselines of a dynamic row, one for each account.

    Args:
        row: a row of ``group``.
        group: its comparison group.
        spent: the row's mean share of full depth's FLOPs over the paired documents, where known;
            otherwise the published mean is used, which leaves out documents without text.

    Returns:
        None for a row that is not dynamic, or where the FLOPs of a depth are not known.
    """
    if row.kind != "dynamic":
        return ()
    spent = spent or {}
    bills = ((account, bill_of(row, account, spent.get(account))) for account in ACCOUNTS)
    return tuple(_baseline(row, group, bill, account) for account, bill in bills if bill)


class Gain(NamedTuple):
    """The comparison of one metric with the baseline, signed so that higher is better."""

    metric: str
    better: bool
    worse: bool


def judged(baseline: StaticBaseline, gains: Sequence[Gain]) -> StaticBaseline:
    """The baseline with the verdict from paired documents.

    Args:
        baseline: as `static_baselines` found it.
        gains: of the metric and of agreement, where pairs could be tested.
    """
    if baseline.verdict == "unknown":
        return baseline
    better = [gain.metric for gain in gains if gain.better]
    worse = [gain.metric for gain in gains if gain.worse]
    verdict: Verdict = "not distinguishable" if gains else "not tested"
    if better or worse:
        verdict = "mixed" if better and worse else "beats" if better else "is worse"
    elif baseline.source == FULL_DEPTH:
        verdict = "does not beat"
    told_by = tuple(gain.metric for gain in gains if gain.better or gain.worse)
    return replace(baseline, verdict=verdict, told_by=told_by)


def on_paired_documents(
    baseline: StaticBaseline, own: float | None, gap: float | None
) -> StaticBaseline:
    """The baseline with its agreement on the paired documents, if there are any.

    Args:
        baseline: as `static_baselines` found it.
        own: mean agreement of the row on these documents.
        gap: mean paired difference of agreement.
    """
    if own is None or gap is None:
        return baseline
    return replace(baseline, agreement=own - gap, row_agreement=own)


def _baseline(row: Row, group: Sequence[Row], bill: DepthBill, account: Account) -> StaticBaseline:
    full = _Point(bill.layers, bill.at(bill.layers), _full_depth(row), 1.0)
    if bill.spent >= full.flops:
        return _of(row, account, full, FULL_DEPTH, ((None, 1.0),))
    known = sorted([full, *_measured(row, group, bill)], key=_by_flops)
    path = tuple((point.row, point.flops) for point in known)
    quality = _best(known, bill.spent, lambda point: point.goodness)
    agreement = _best(known, bill.spent, lambda point: point.agreement)
    mixture = agreement or quality or _best(known, bill.spent, lambda point: 0.0)
    if not mixture:
        depth = max(1.0, bill.depth(bill.spent))
        return StaticBaseline(account, depth, None, None, _missing(row, depth), "unknown")
    point = _Point(
        sum(odds * one.depth for one, odds in mixture),
        bill.spent,
        _mean([(one.goodness, odds) for one, odds in quality]),
        _mean([(one.agreement, odds) for one, odds in agreement]),
    )
    source = f"measured{_depths(mixture)}"
    if quality and _depths(quality) != _depths(mixture):
        source = f"{row.key.metric} measured{_depths(quality)}, agreement{_depths(mixture)}"
    return _of(row, account, point, source, tuple((one.row, odds) for one, odds in mixture), path)


_Mixture = Sequence[tuple[_Point, float]]
"""One depth or two, each with its odds."""


def _best(
    known: Sequence[_Point], spent: float, value: Callable[[_Point], float | None]
) -> _Mixture:
    """The mixture of two depths of the highest value that costs ``spent``; empty for none."""
    there = [(point, found) for point in known if (found := value(point)) is not None]
    if not there or not there[0][0].flops <= spent <= there[-1][0].flops:
        return ()
    points, values = zip(*there, strict=True)
    odds = mixtures(np.array([point.flops for point in points]), spent)
    best = odds[(odds @ np.array(values)).argmax()].tolist()
    return [(point, odd) for point, odd in zip(points, best, strict=True) if odd > 0]


def _depths(mixture: _Mixture) -> str:
    """Which depths are mixed; empty for a single one, which is the baseline's own."""
    return f" at {' and '.join(f'{one.depth:g}' for one, _ in mixture)}" if mixture[1:] else ""


def _missing(row: Row, depth: float) -> str:
    """A line on the missing run: one at this fixed depth or below."""
    exits = [int(layer) for layer in row.run.settings.get("exit_layers") or ()]
    layer = max((layer for layer in exits if layer <= depth), default=max(1, int(depth)))
    return f"not measured; a run with threshold=0,exit_layers={layer} would tell"


def _measured(row: Row, group: Sequence[Row], bill: DepthBill) -> list[_Point]:
    """Static runs, one for each depth, billed as shares of full depth.

    The skipped-state policy has no effect, as no layer above the depth runs later; heads do, so
    that a static run with those of ``row`` is preferred. A run with a translator of unknown cost is
    omitted.
    """
    chosen: dict[int, Row] = {}
    for other in sorted(group, key=lambda one: _unlike(row, one)):
        depth = static_depth(other.run)
        if depth is not None and translator_flops(other) is not None:
            chosen.setdefault(depth, other)
    points = []
    for depth, other in chosen.items():
        agreement = other.agreement.mean if other.agreement else None
        flops = bill.at(depth, translator_flops(other) or 0)
        points.append(_Point(depth, flops, other.goodness, agreement, other))
    return points


def _unlike(row: Row, other: Row) -> tuple[bool, bool]:
    """A sort key: runs with the heads, then with the skipped state, of ``row`` come first."""
    ours, theirs = row.run.settings, other.run.settings
    heads = ours.get("heads_fingerprint") != theirs.get("heads_fingerprint")
    return heads, ours.get("skipped_state") != theirs.get("skipped_state")


def _full_depth(row: Row) -> float | None:
    if row.full_depth is None:
        return None
    return row.full_depth.mean if row.higher_is_better else -row.full_depth.mean


def _by_flops(point: _Point) -> float:
    return point.flops


def _mean(parts: Sequence[tuple[float | None, float]]) -> float | None:
    known = [value * odds for value, odds in parts if value is not None]
    return sum(known) if known and len(known) == len(parts) else None


def _of(
    row: Row,
    account: Account,
    point: _Point,
    source: str,
    mixture: tuple[tuple[Row | None, float], ...],
    path: tuple[tuple[Row | None, float], ...] = (),
) -> StaticBaseline:
    quality = point.goodness
    if quality is not None and not row.higher_is_better:
        quality = -quality
    verdict: Verdict = "does not beat" if source == FULL_DEPTH else "not tested"
    return StaticBaseline(
        account=account,
        depth=point.depth,
        quality=quality,
        agreement=point.agreement,
        source=source,
        verdict=verdict,
        mixture=mixture,
        path=path,
        costs=cost_bounds(row),
    )
