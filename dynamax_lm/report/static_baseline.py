"""Static baselines of a dynamic setting: the fixed depths of equal cost, and the verdict.

A baseline is a model of fewer layers, and billed as one: layers that never run keep no state, no
exit is checked, a translator is billed where the depth has one, and a model of k layers prefills k
layers. There are two, since a dynamic setting prefills at full depth or up to its own prompt exit:
one of equal FLOPs over answer tokens, without prompts, and one with prompts in both.

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
from dynamax_lm.core.costs import HybridCosts
from dynamax_lm.core.fixed_depth import FixedDepths
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.report.costs import (
    costs_of,
    exit_extras_of,
    measure_of,
    prompt_maps_of,
    skipped_state_of,
)
from dynamax_lm.report.equal_cost import mixtures
from dynamax_lm.report.labels import depth_text
from dynamax_lm.report.rows import Row, static_depth

Account = Literal["answer", "total"]
"""The account of equal FLOPs: answer tokens alone, or prompts and answers together."""

ACCOUNTS: tuple[Account, ...] = ("answer", "total")

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


class _Bill(NamedTuple):
    """Costs of the tokens at every depth, by one account, as shares of full depth's FLOPs.

    Attributes:
        spent: by the run, mean over documents.
        fixed: all tokens together at every depth, in FLOPs.
        layers: L.
        whole: FLOPs of all tokens at full depth.
    """

    spent: float
    fixed: FixedDepths
    layers: int
    whole: float

    def at(self, depth: float, translator: int = 0) -> float:
        """The share of the fixed depth ``depth``, with ``translator`` FLOPs for each emission."""
        return self.fixed.at(depth, translator) / self.whole

    def depth(self, share: float) -> float:
        """The depth of that share, without a translator."""
        return self.fixed.depth(share * self.whole)


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
    bills = ((account, _bill(row, account, spent.get(account))) for account in ACCOUNTS)
    return tuple(_baseline(row, group, bill, account) for account, bill in bills if bill)


def saving_of(row: Row, account: Account = "answer") -> float | None:
    """What a row's point stands for: net share of FLOPs saved, by default over answer tokens.

    Of a fixed depth it is what a model of so many layers saves over the run's tokens, as in a
    baseline, without the state of layers that never run and the checks that the run was billed for;
    of any other row, and where widths are not known, the run's own mean. ``None`` without one.
    """
    saved = row.flops_saved if account == "answer" else row.flops_saved_total
    if saved is None:
        return None
    depth, translator, bill = static_depth(row.run), _translator(row), _bill(row, account)
    if depth is None or translator is None or bill is None:
        return saved.mean
    return 1 - bill.at(depth, translator)


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


def _bill(row: Row, account: Account, spent: float | None = None) -> _Bill | None:
    """One account. Prompts have no emission: their last token counts with the answer.

    Layers that cost the same are linear in depth, in prompts and answers alike.
    """
    costs, totals = costs_of(row.run), row.run.totals(row.task)
    saved = row.flops_saved if account == "answer" else row.flops_saved_total
    if costs is None or saved is None or not totals or not totals.get("tokens"):
        return None
    flops, tokens = totals["ledger"]["flops"], totals["tokens"]
    prompt = flops["prompt"] + flops.get("prompt_saved", 0)
    whole = flops["full_depth"] + (prompt if account == "total" else 0)
    emission = FixedDepths.of(costs, 0.0, tokens).emission
    passed = tokens + (totals["prompt_tokens"] if account == "total" else 0)
    fixed = FixedDepths.of(costs, (whole - emission) / costs.n_layers, tokens, passed)
    return _Bill(1 - saved.mean if spent is None else spent, fixed, costs.n_layers, whole)


def cost_bounds(row: Row) -> Bounds | None:
    """Bounds of a document's share of full depth's FLOPs, by the row's exit policy.

    At least the layers of the first exit (0 where layers differ in cost), and at most full depth
    with every check and a translator, or the cost of a token of one exit at position 0, where
    skipped layers weigh most: the state of a skipped layer may cost more than the layer under a
    policy from outside. Prompts in both only bring the share nearer to 1, or with a prompt exit to
    a share between that of the layers which prompts run and 1, or that of a prompt token at
    position 0, where maps weigh most. ``None`` where parts of the policy are unknown.
    """
    costs, extras, measure = costs_of(row.run), exit_extras_of(row.run), measure_of(row.run)
    exits = [int(layer) for layer in row.run.settings.get("exit_layers") or ()]
    state, prompt_exit = skipped_state_of(row.run), row.run.settings.get("prompt_exit")
    maps = prompt_maps_of(row.run)
    if costs is None or extras is None or measure is None or state is None or maps is None:
        return None
    if not exits and prompt_exit is None:
        return None
    try:
        ledger = Ledger(
            costs,
            exit_layers=exits,
            confidence=measure,
            skipped_state=state,
            exit_extras=extras,
            prompt_exit=prompt_exit,
            prompt_maps=maps,
        )
    except ValueError:
        return None
    bill = ledger.answer(0, [costs.n_layers])
    translator = max((extra.translator for extra in extras), default=0)
    highest = 1 + (bill.checks + translator) / bill.full_depth
    at_exits = (ledger.answer(0, [layer]) for layer in exits)
    highest = max([highest, *(one.spent / one.full_depth for one in at_exits)])
    if maps:
        prompt = ledger.answer(1, [])
        highest = max(highest, prompt.prompt / (prompt.prompt + prompt.prompt_saved))
    depths = [*exits[:1], *([] if prompt_exit is None else [int(prompt_exit)])]
    lowest = 0.0 if isinstance(costs, HybridCosts) else min(depths) / costs.n_layers
    return Bounds(lowest, highest)


def _baseline(row: Row, group: Sequence[Row], bill: _Bill, account: Account) -> StaticBaseline:
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


def _measured(row: Row, group: Sequence[Row], bill: _Bill) -> list[_Point]:
    """Static runs, one for each depth, billed as shares of full depth.

    The skipped-state policy has no effect, as no layer above the depth runs later; heads do, so
    that a static run with those of ``row`` is preferred. A run with a translator of unknown cost is
    omitted.
    """
    chosen: dict[int, Row] = {}
    for other in sorted(group, key=lambda one: _unlike(row, one)):
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
    """FLOPs per token of a static run's translator; ``None`` if unknown."""
    extras = exit_extras_of(static.run)
    if extras is None:
        return None
    return extras[0].translator if extras else 0


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
