"""One backbone's comparison: every measure and head, with and without translators.

Owns which rules are compared and what is said of each. It does not know files or pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.criteria.accounts import PerDocument, Tariff, Twin, static_depths, twin
from benchmarks.criteria.asking import UNTRAINED, Exits, Fixed, Rule, Trained
from benchmarks.criteria.choice import Interval, Judged, cross_fit, interval, share_interval
from benchmarks.criteria.states import States
from dynamax_lm.heads import ExitHeads
from dynamax_lm.ledger import ExitExtras, LayerCosts

TARGETS = (0.90, 0.95, 0.99)


def _even(first: float, last: float, step: float) -> tuple[float, ...]:
    """Thresholds at even log-odds: as dense near 1 as confidences are; then 1, never leaving."""
    odds = np.arange(first, last + step / 2, step)
    return (*(1.0 / (1.0 + np.exp(-odds))).tolist(), 1.0)


FINE = (0.0, *_even(-4.0, 14.0, 0.1))
"""Thresholds of measures whose confidences are computed once."""

COARSE = (0.0, *_even(-2.0, 7.0, 0.2))
"""Thresholds of heads that must be asked anew at each."""


class Line(NamedTuple):
    """One rule at one target.

    Attributes:
        translators: ``none`` or ``affine``.
        rule: a measure, a kind of head, or ``oracle``.
        target: least agreement asked for; 1 for the oracle.
        saved: net share of decode FLOPs, mean over documents.
        saved_interval: 95 %.
        agreement: measured on documents that did not choose the threshold.
        agreement_interval: 95 %.
        layers: mean layers run.
        thresholds: of each fold.
        of_oracle: share of what the oracle saves over the same exits and translators.
        of_oracle_interval: 95 %.
        twin: the static mixture of the same cost, or ``None`` where none is as expensive.
    """

    translators: str
    rule: str
    target: float
    saved: float
    saved_interval: Interval
    agreement: float
    agreement_interval: Interval
    layers: float
    thresholds: tuple[float, ...]
    of_oracle: float
    of_oracle_interval: Interval
    twin: Twin | None


class Point(NamedTuple):
    """One rule at one threshold, over all documents."""

    threshold: float
    saved: float
    agreement: float
    layers: float


@dataclass(frozen=True)
class Contender:
    """A rule with its bill.

    Attributes:
        name: of the rule.
        confidence: the measure's name in the engine and the ledger.
        heads: what the engine needs to run it, if anything.
        grid: per threshold, every document's numbers.
    """

    name: str
    confidence: str
    heads: ExitHeads | None
    grid: Mapping[float, PerDocument]

    def curve(self) -> list[Point]:
        """Its numbers at every threshold."""
        return [
            Point(threshold, saved, agreement, layers)
            for threshold, (saved, agreement, layers) in (
                (threshold, one.means) for threshold, one in self.grid.items()
            )
        ]


@dataclass(frozen=True)
class Column:
    """All rules over the same exits and translators.

    Attributes:
        translators: ``none`` or ``affine``.
        contenders: measures and heads.
        oracle: the ceiling.
        statics: every exit as the only depth, then full depth.
        exit_agreement: of each exit, token by token.
    """

    translators: str
    contenders: tuple[Contender, ...]
    oracle: PerDocument
    statics: tuple[PerDocument, ...]
    exit_agreement: tuple[float, ...]

    def lines(self, layers: Sequence[int], fold: NDArray[np.int64], seed: int) -> Iterator[Line]:
        """Every rule at every target, then the oracle."""
        for one in self.contenders:
            for target in TARGETS:
                judged = cross_fit(one.grid, fold, target)
                yield self._line(one.name, target, judged, layers, seed)
        yield self._line("oracle", 1.0, Judged((), self.oracle), layers, seed)

    def _line(
        self, rule: str, target: float, judged: Judged, layers: Sequence[int], seed: int
    ) -> Line:
        documents = judged.documents
        saved, agreement, used = documents.means
        share, around = share_interval(documents.saved, self.oracle.saved, seed)
        return Line(
            translators=self.translators,
            rule=rule,
            target=target,
            saved=saved,
            saved_interval=interval(documents.saved, seed),
            agreement=agreement,
            agreement_interval=interval(documents.agreement, seed),
            layers=used,
            thresholds=judged.thresholds,
            of_oracle=share,
            of_oracle_interval=around,
            twin=twin(layers, self.statics, saved),
        )


def compare(
    translators: str,
    states: States,
    exits: Exits,
    bank: ExitHeads | None,
    classifiers: Mapping[str, ExitHeads],
    costs: LayerCosts,
    skipped_state: str,
) -> Column:
    """Run every rule over the test documents.

    Args:
        translators: name of the column.
        states: of the test documents.
        exits: what their exits say.
        bank: the translators, if any.
        classifiers: trained heads by name.
        costs: of the architecture.
        skipped_state: what is billed for skipped layers.
    """
    extra = [0 if bank is None else bank.translator_flops(layer) for layer in states.exits]

    def tariff(confidence: str, heads: ExitHeads | None) -> Tariff:
        extras = [
            ExitExtras(0 if heads is None else heads.classifier_flops(layer), flops)
            for layer, flops in zip(states.exits, extra, strict=True)
        ]
        return Tariff.of(states, costs, confidence, skipped_state, extras)

    def contender(name: str, rule: Rule, confidence: str, heads: ExitHeads | None) -> Contender:
        bill = tariff(confidence, heads)
        grid = FINE if isinstance(rule, Fixed) else COARSE
        return Contender(
            name,
            confidence,
            heads,
            {at: bill.account(rule.leave(at), exits.right) for at in grid},
        )

    found = [
        contender(name, Fixed(exits.confidences[name]), name, bank)
        for name in UNTRAINED
        if name in exits.confidences
    ]
    for name, heads in classifiers.items():
        found.append(contender(name, Trained(heads, states).rule(), "head", heads))
    first_right = np.where(exits.right.any(0), exits.right.argmax(0), len(states.exits))
    return Column(
        translators=translators,
        contenders=tuple(found),
        oracle=tariff("oracle", None).account(first_right, exits.right),
        statics=tuple(static_depths(states, costs, skipped_state, extra, exits.right)),
        exit_agreement=tuple(float(row.mean()) for row in exits.right),
    )


def plain(value: Any) -> Any:
    """Named tuples as objects, for JSON."""
    if hasattr(value, "_asdict"):
        return {name: plain(one) for name, one in value._asdict().items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value
