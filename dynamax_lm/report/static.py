"""The baselines of a dynamic setting: always leaving at the one depth that costs the same.

Owns which depth that is, what is known of its quality, and the verdict. The baseline is a model of
fewer layers, and billed as one: layers that never run keep no state, nothing is asked at exits, a
translator is paid where the depth speaks through one, and a model of k layers prefills k layers.
There are two, since a dynamic setting prefills at full depth: one of the same FLOPs over answer
tokens, prompts left out, and one of the same FLOPs with the prompts in both.

Both go by the FLOPs of all tokens of the run together: documents leave at different depths and have
answers of different length, and a baseline has one depth for all of them. It is billed for the very
tokens that the setting emitted. Its quality is measured, or lies between two depths that were
measured, or is unknown and said to be; it is never guessed. Verdicts go by paired documents alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from dynamax_lm.ledger import LayerCosts, norm_flops, unembed_flops
from dynamax_lm.report.costs import costs_of, exit_extras_of
from dynamax_lm.report.rows import Row, static_depth

Account = Literal["answer", "total"]
"""Whose FLOPs are equal: the answer tokens' alone, or prompts' and answers' together."""

ACCOUNTS: tuple[Account, ...] = ("answer", "total")

Verdict = Literal[
    "beats", "mixed", "not distinguishable", "is worse", "does not beat", "not tested", "unknown"
]
"""``does not beat``: not shown better than full depth, which costs less. ``not tested``: measured,
but no document can be paired. ``unknown``: not measured."""

FULL_DEPTH = "full depth is cheaper"
"""The source of a baseline that is full depth itself."""
OWN_FULL_DEPTH = "its own full depth"
"""The name of the row's reference as something to be held against."""


@dataclass(frozen=True, slots=True)
class StaticBaseline:
    """What always leaving at one depth would give for the same FLOPs.

    Attributes:
        account: which FLOPs are the same.
        depth: decoder layers, 1..L, a fraction between two depths; L where full depth is cheaper.
        quality: the task's metric there, or ``None`` where no static runs enclose the depth.
        agreement: with full depth, or ``None`` likewise.
        source: where the two come from, in words.
        verdict: how the dynamic setting fares: ``beats`` asks that it is nowhere shown worse.
        told_by: the metrics that made the verdict.
        mixture: the measured depths that it lies between, each with its odds: a baseline that
            draws one of the two for each document costs the same. ``None`` is full depth; empty
            where nothing was measured.
    """

    account: Account
    depth: float
    quality: float | None
    agreement: float | None
    source: str
    verdict: Verdict
    mixture: tuple[tuple[Row | None, float], ...] = ()
    told_by: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In words; the same baseline by either account has one name."""
        if self.source == FULL_DEPTH:
            return OWN_FULL_DEPTH
        return f"fixed depth {self.depth:.1f} of equal {self.account} FLOPs"


@dataclass(frozen=True, slots=True)
class _Point:
    """A depth of which something was measured, and its bill."""

    depth: float
    flops: float
    goodness: float | None
    agreement: float | None
    row: Row | None = None


class _Bill(NamedTuple):
    """What one run's tokens cost at every depth, by one account.

    Attributes:
        spent: by the run.
        layer: one layer for all of them.
        emission: norm and vocabulary projection for all of them.
        tokens: emitted.
        layers: L.
    """

    spent: float
    layer: float
    emission: float
    tokens: int
    layers: int

    def at(self, depth: float, translator: int = 0) -> float:
        """FLOPs of always leaving at ``depth``, through a translator of so many FLOPs a token."""
        return depth * self.layer + self.emission + self.tokens * translator

    def depth(self, flops: float) -> float:
        """The depth of so many FLOPs, without a translator."""
        return (flops - self.emission) / self.layer


def static_baselines(row: Row, arena: Sequence[Row]) -> tuple[StaticBaseline, ...]:
    """The baselines of a dynamic row, one an account.

    Args:
        row: a row of ``arena``.
        arena: all rows that it may be held against.

    Returns:
        None for a row that is not dynamic, or where the FLOPs of a depth are not known.
    """
    costs, totals = costs_of(row.run), row.run.totals(row.task)
    if row.kind != "dynamic" or costs is None or not totals or not totals.get("tokens"):
        return ()
    return tuple(_baseline(row, arena, _bill(costs, totals, one), one) for one in ACCOUNTS)


def equal_cost_depth(row: Row, account: Account = "answer") -> float | None:
    """The depth at which always leaving costs what the row did, if it is known.

    No translator is billed here. Above L the row costs more than full depth.
    """
    costs, totals = costs_of(row.run), row.run.totals(row.task)
    if costs is None or not totals or not totals.get("tokens"):
        return None
    bill = _bill(costs, totals, account)
    return max(1.0, bill.depth(bill.spent))


class Gain(NamedTuple):
    """What is shown of one metric, setting against baseline, turned so that more is better."""

    metric: str
    better: bool
    worse: bool


def judged(baseline: StaticBaseline, gains: Sequence[Gain]) -> StaticBaseline:
    """The baseline with the verdict that paired documents give.

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


def _bill(costs: LayerCosts, totals: Mapping[str, Any], account: Account) -> _Bill:
    """The run's tokens in one account. Prompts make no emission: their last token is the answer's.

    Layers are linear in depth, in prompts and answers alike. The state of layers above a fixed
    depth is never read, and a baseline that paid for it would be a weak one (on Mamba-2 it is two
    fifths of a layer).
    """
    flops, tokens = totals["ledger"]["flops"], totals["tokens"]
    emission = tokens * (norm_flops(costs) + unembed_flops(costs))
    spent, layers = flops["spent"], flops["full_depth"] - emission
    if account == "total":
        spent, layers = spent + flops["prompt"], layers + flops["prompt"]
    return _Bill(spent, layers / costs.n_layers, emission, tokens, costs.n_layers)


def _baseline(row: Row, arena: Sequence[Row], bill: _Bill, account: Account) -> StaticBaseline:
    full = _Point(bill.layers, bill.at(bill.layers), _full_depth(row), 1.0)
    if bill.spent >= full.flops:
        return _of(row, account, full, FULL_DEPTH, ((None, 1.0),))
    known = [full, *_measured(row, arena, bill)]
    below = max((p for p in known if p.flops <= bill.spent), key=_by_flops, default=None)
    above = min((p for p in known if p.flops >= bill.spent), key=_by_flops, default=None)
    if below is None or above is None:
        depth = max(1.0, bill.depth(bill.spent))
        return StaticBaseline(account, depth, None, None, _missing(row, depth), "unknown")
    if below is above:
        return _of(row, account, below, "measured", ((below.row, 1.0),))
    share = (bill.spent - below.flops) / (above.flops - below.flops)
    point = _Point(
        _mean(below.depth, above.depth, share),
        bill.spent,
        _between(below.goodness, above.goodness, share),
        _between(below.agreement, above.agreement, share),
    )
    source = f"measured at {below.depth:g} and {above.depth:g}"
    return _of(row, account, point, source, ((below.row, 1 - share), (above.row, share)))


def _missing(row: Row, depth: float) -> str:
    """Which run would tell the quality at ``depth``: one that always leaves there or before."""
    exits = [int(layer) for layer in row.run.settings.get("exit_layers") or ()]
    layer = max((layer for layer in exits if layer <= depth), default=max(1, int(depth)))
    return f"not measured; a run with threshold=0,exit_layers={layer} would tell"


def _measured(row: Row, arena: Sequence[Row], bill: _Bill) -> list[_Point]:
    """Static runs, one a depth, billed for the row's tokens.

    What skipped layers remember does not matter where none of them runs again; heads do, so that
    a static run with those of ``row`` is preferred. A run whose translator nobody knows the cost of
    is left out.
    """
    chosen: dict[int, Row] = {}
    for other in sorted(arena, key=lambda one: _unlike(row, one)):
        depth = static_depth(other.run)
        if depth is not None and _translator(other) is not None:
            chosen.setdefault(depth, other)
    points = []
    for depth, other in chosen.items():
        agreement = other.agreement.mean if other.agreement else None
        flops = bill.at(depth, _translator(other) or 0)
        points.append(_Point(depth, flops, other.goodness, agreement, other))
    return points


def _translator(static: Row) -> int | None:
    """FLOPs a token of the translator that a static run speaks through; ``None`` if unknown."""
    extras = exit_extras_of(static.run)
    if extras is None:
        return None
    return extras[0].translator if extras else 0


def _unlike(row: Row, other: Row) -> tuple[bool, bool]:
    """Sorts the runs first that have the heads, then the skipped state, of ``row``."""
    ours, theirs = row.run.settings, other.run.settings
    heads = ours.get("heads_fingerprint") != theirs.get("heads_fingerprint")
    return heads, ours.get("skipped_state") != theirs.get("skipped_state")


def _full_depth(row: Row) -> float | None:
    if row.full_depth is None:
        return None
    return row.full_depth.mean if row.higher_is_better else -row.full_depth.mean


def _by_flops(point: _Point) -> float:
    return point.flops


def _mean(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


def _between(low: float | None, high: float | None, share: float) -> float | None:
    return None if low is None or high is None else _mean(low, high, share)


def _of(
    row: Row,
    account: Account,
    point: _Point,
    source: str,
    mixture: tuple[tuple[Row | None, float], ...],
) -> StaticBaseline:
    quality = point.goodness
    if quality is not None and not row.higher_is_better:
        quality = -quality
    verdict: Verdict = "does not beat" if source == FULL_DEPTH else "not tested"
    return StaticBaseline(account, point.depth, quality, point.agreement, source, verdict, mixture)
