"""The plain rival of a dynamic setting: always leaving at the one depth that costs the same.

Owns which depth that is, what is known of its quality, and whether the dynamic setting beats it.
The rival is a model of fewer layers, and billed as one: layers that never run keep no state. The
depth follows from the ledger. Its quality is measured, or lies between two depths that were
measured, or is unknown and said to be; it is never guessed. Where documents can be paired the
verdict goes by the intervals of their differences, and by the two means alone where they cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from dynamax_lm.ledger import norm_flops, unembed_flops
from dynamax_lm.report.costs import costs_of
from dynamax_lm.report.rows import Row, static_depth

Verdict = Literal["beats", "mixed", "ties", "not distinguishable", "does not beat", "unknown"]
"""``not distinguishable``: every paired interval holds zero. ``ties``: no document differs."""

FULL_DEPTH = "full depth is cheaper"
"""The source of a rival that is full depth itself."""
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class StaticRival:
    """What always leaving at one depth would give for the same FLOPs.

    Attributes:
        depth: decoder layers, 1..L, a fraction between two depths; L where full depth is cheaper.
        quality: the task's metric there, or ``None`` where no static runs enclose the depth.
        agreement: with full depth, or ``None`` likewise.
        source: where the two come from, in words.
        verdict: how the dynamic setting fares: ``beats`` asks that it is nowhere worse.
        paired: whether the verdict goes by paired intervals, not by the two means alone.
        told_by: the metrics whose intervals leave zero out; they made the verdict.
        mixture: the measured depths that it lies between, each with its weight; choosing between
            them by these odds, document by document, is what interpolation stands for. ``None`` is
            full depth; empty where nothing was measured.
    """

    depth: float
    quality: float | None
    agreement: float | None
    source: str
    verdict: Verdict
    mixture: tuple[tuple[Row | None, float], ...] = ()
    paired: bool = False
    told_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Point:
    depth: float
    goodness: float | None
    agreement: float | None
    row: Row | None = None


def static_rival(row: Row, arena: Sequence[Row]) -> StaticRival | None:
    """The rival of a dynamic row.

    Args:
        row: a row of ``arena``.
        arena: all rows that it may be held against.

    Returns:
        ``None`` for a row that is not dynamic, or where the FLOPs of a depth are not known.
    """
    if row.kind != "dynamic":
        return None
    costs, depth = costs_of(row.run), equal_cost_depth(row)
    if costs is None or depth is None:
        return None
    if depth >= costs.n_layers:
        point = _Point(costs.n_layers, _full_depth(row), 1.0)
        rival = replace(_judged(row, point, FULL_DEPTH), mixture=((None, 1.0),))
        return replace(rival, verdict="does not beat") if rival.verdict == "ties" else rival
    known = _measured(row, arena, costs.n_layers)
    below = max((p for p in known if p.depth <= depth), key=lambda p: p.depth, default=None)
    above = min((p for p in known if p.depth >= depth), key=lambda p: p.depth, default=None)
    if below is None or above is None:
        return StaticRival(depth, None, None, _missing(row, depth), "unknown")
    if below.depth == above.depth:
        return replace(_judged(row, below, "measured"), mixture=((below.row, 1.0),))
    share = (depth - below.depth) / (above.depth - below.depth)
    point = _Point(
        depth,
        _between(below.goodness, above.goodness, share),
        _between(below.agreement, above.agreement, share),
    )
    rival = _judged(row, point, f"measured at {below.depth:g} and {above.depth:g}")
    return replace(rival, mixture=((below.row, 1 - share), (above.row, share)))


class Gain(NamedTuple):
    """The paired interval of one metric, setting minus rival, turned so that more is better."""

    metric: str
    low: float
    high: float


def judged_by_pairs(rival: StaticRival, gains: Sequence[Gain], *, costlier: bool) -> StaticRival:
    """The rival with the verdict that paired intervals give.

    Args:
        rival: as `static_rival` found it.
        gains: of the metric and of agreement; none leaves the rival as it is.
        costlier: whether the rival is full depth and costs less, so that no worse is not enough.
    """
    if not gains:
        return rival
    better = [gain.metric for gain in gains if gain.low > 0]
    worse = [gain.metric for gain in gains if gain.high < 0]
    verdict: Verdict = "not distinguishable"
    if better or worse:
        verdict = "mixed" if better and worse else "beats" if better else "does not beat"
    elif costlier:
        verdict = "does not beat"
    elif all(gain.low == gain.high == 0 for gain in gains):
        verdict = "ties"
    told_by = tuple(gain.metric for gain in gains if gain.metric in {*better, *worse})
    return replace(rival, verdict=verdict, paired=True, told_by=told_by)


def equal_cost_depth(row: Row) -> float | None:
    """The depth at which leaving always costs what the row's answer tokens did, if it is known.

    Tokens that all leave at layer k spend k layers and one emission, so that the saving falls
    linearly in k and vanishes at L. The state of the L - k other layers is never read, and a rival
    that paid for it would be a weak one (on Mamba-2 it is two fifths of a layer). Above L the row
    costs more than full depth.
    """
    costs, totals = costs_of(row.run), row.run.totals(row.task)
    if costs is None or not totals or not totals.get("tokens"):
        return None
    full_depth = totals["ledger"]["flops"]["full_depth"]
    tokens, saved = totals["tokens"], totals["flops_saved"]
    emissions = tokens * (norm_flops(costs) + unembed_flops(costs))
    one_layer = (full_depth - emissions) / costs.n_layers
    return max(1.0, float(costs.n_layers - saved * full_depth / one_layer))


def _missing(row: Row, depth: float) -> str:
    """Which run would tell the quality at ``depth``: one that always leaves there or before."""
    exits = [int(layer) for layer in row.run.settings.get("exit_layers") or ()]
    layer = max((layer for layer in exits if layer <= depth), default=max(1, int(depth)))
    return f"not measured; a run with threshold=0,exit_layers={layer} would tell"


def _measured(row: Row, arena: Sequence[Row], layers: int) -> list[_Point]:
    """Depths of which quality is known: static runs, one a depth, and full depth.

    What skipped layers remember does not matter where none of them runs again; heads do, so that
    a static run with those of ``row`` is preferred.
    """
    chosen: dict[int, Row] = {}
    for other in sorted(arena, key=lambda one: _unlike(row, one)):
        depth = static_depth(other.run)
        if depth is not None:
            chosen.setdefault(depth, other)
    points = [_Point(layers, _full_depth(row), 1.0)]
    for depth, other in chosen.items():
        agreement = other.agreement.mean if other.agreement else None
        points.append(_Point(depth, other.goodness, agreement, other))
    return points


def _unlike(row: Row, other: Row) -> tuple[bool, bool]:
    """Sorts the runs first that have the heads, then the skipped state, of ``row``."""
    ours, theirs = row.run.settings, other.run.settings
    heads = ours.get("heads_fingerprint") != theirs.get("heads_fingerprint")
    return heads, ours.get("skipped_state") != theirs.get("skipped_state")


def _full_depth(row: Row) -> float | None:
    if row.full_depth is None:
        return None
    return row.full_depth.mean if row.higher_is_better else -row.full_depth.mean


def _between(low: float | None, high: float | None, share: float) -> float | None:
    return None if low is None or high is None else low + share * (high - low)


def _judged(row: Row, point: _Point, source: str) -> StaticRival:
    quality = point.goodness
    if quality is not None and not row.higher_is_better:
        quality = -quality
    return StaticRival(point.depth, quality, point.agreement, source, _verdict(row, point))


def _verdict(row: Row, point: _Point) -> Verdict:
    gains = []
    if point.goodness is not None:
        gains.append(row.goodness - point.goodness)
    if point.agreement is not None and row.agreement is not None:
        gains.append(row.agreement.mean - point.agreement)
    if not gains:
        return "unknown"
    better, worse = max(gains) > _TOLERANCE, min(gains) < -_TOLERANCE
    if better and worse:
        return "mixed"
    if better or worse:
        return "beats" if better else "does not beat"
    return "ties"
