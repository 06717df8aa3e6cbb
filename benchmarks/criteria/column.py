"""All rules over the same exits and translators: their numbers at each target, and their verdicts.

It reads what each document saved and agreed at every threshold; it runs no rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.criteria.accounts import (
    Floats,
    Grid,
    PerDocument,
    twin,
    twin_agreement,
)
from benchmarks.criteria.choice import (
    LEVEL,
    Interval,
    Judged,
    Weights,
    cross_fit,
    fold_means,
    interval,
    judge,
)
from benchmarks.criteria.kinds import kind_of
from dynamax_lm.heads import ExitHeads

TARGETS = (0.90, 0.95, 0.99)
MIDDLE = 0.95

Verdict = Literal["beats", "loses", "not distinguishable"]


class Static(NamedTuple):
    """The mixture of two fixed depths that costs what a rule costs.

    Attributes:
        shallow: layers of the one.
        deep: layers of the other; L for full depth.
        share: of documents run at ``deep``.
        agreement: of the mixture.
    """

    shallow: int
    deep: int
    share: float
    agreement: float


class Line(NamedTuple):
    """One rule at one target. Intervals are 95 %, their thresholds chosen anew in every draw.

    Attributes:
        translators: ``none`` or ``affine``.
        rule: a measure, a kind of head, or ``oracle``.
        target: least agreement asked for; 1 for the oracle.
        saved: net share of decode FLOPs over tokens of text, mean over documents.
        saved_interval: its interval.
        saved_with_stop: the same where the stop's tokens count too, for agreement as well.
        saved_coarse: the same as ``saved`` over every second threshold of the grid.
        agreement: measured on documents that did not choose the threshold.
        agreement_interval: its interval.
        layers: mean layers run.
        thresholds: of each fold.
        of_oracle: share of what the oracle saves over the same exits and translators.
        of_oracle_interval: its interval.
        static: the mixture of the same cost, or ``None`` where full depth is cheaper.
        gap: agreement less the static mixture's, or less 1 where full depth is cheaper.
        gap_interval: its interval.
        verdict: by an interval corrected for the number of rules in the table (Bonferroni).
    """

    translators: str
    rule: str
    target: float
    saved: float
    saved_interval: Interval
    saved_with_stop: float
    saved_coarse: float
    agreement: float
    agreement_interval: Interval
    layers: float
    thresholds: tuple[float, ...]
    of_oracle: float
    of_oracle_interval: Interval
    static: Static | None
    gap: float
    gap_interval: Interval
    verdict: Verdict


class Pair(NamedTuple):
    """Two rules of one table at one target: what the first saves more than the second."""

    translators: str
    first: str
    second: str
    difference: float
    difference_interval: Interval


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
        grid: every document's numbers at every threshold, over tokens of text.
        with_stop: the same over all tokens.
    """

    name: str
    confidence: str
    heads: ExitHeads | None
    grid: Grid
    with_stop: Grid

    def curve(self) -> list[Point]:
        """Its numbers at every threshold."""
        means = (column.mean(1).tolist() for column in self.grid.numbers)
        return [Point(*one) for one in zip(self.grid.thresholds.tolist(), *means, strict=True)]


@dataclass(frozen=True)
class Column:
    """All rules over the same exits and translators.

    Attributes:
        translators: ``none`` or ``affine``.
        contenders: measures and heads.
        oracle: the ceiling.
        statics: (E + 1, M) every exit as the only depth, then full depth.
        exit_agreement: of each exit, token by token.
    """

    translators: str
    contenders: tuple[Contender, ...]
    oracle: PerDocument
    statics: PerDocument
    exit_agreement: tuple[float, ...]

    def lines(self, layers: Sequence[int], weights: Weights) -> Iterator[Line]:
        """Every rule at every target, then the oracle."""
        for one in self.contenders:
            means = fold_means(one.grid.numbers, weights)
            plain = Weights(weights.fold, weights.counts[:1])
            for target in TARGETS:
                yield self._line(
                    one.name,
                    target,
                    judge(one.grid.thresholds, means, weights, target),
                    layers,
                    weights,
                    float(cross_fit(one.with_stop, plain, target).saved[0]),
                    float(cross_fit(one.grid.every(2), plain, target).saved[0]),
                )
        ceiling = Judged((0.0, 0.0), *(weights.means(column) for column in self.oracle))
        saved = float(ceiling.saved[0])
        yield self._line("oracle", 1.0, ceiling, layers, weights, saved, saved)

    def pairs(self, names: Sequence[str], weights: Weights) -> Iterator[Pair]:
        """What ``names`` save more than the other trained heads at the middle target."""
        judged = self._saved_by_heads(weights)
        done: set[frozenset[str]] = set()
        for name in (one for one in names if one in judged):
            for other in judged:
                if other != name and frozenset((name, other)) not in done:
                    done.add(frozenset((name, other)))
                    gain = judged[name] - judged[other]
                    yield Pair(self.translators, name, other, float(gain[0]), interval(gain))

    def pairs_of_kinds(self, kinds: Sequence[str], weights: Weights) -> Iterator[Pair]:
        """What kinds of heads save more than each other at the middle target, over all seeds.

        The interval is for documents: it says nothing of seeds that were not trained.
        """
        judged: dict[str, list[Floats]] = {}
        for name, saved in self._saved_by_heads(weights).items():
            judged.setdefault(kind_of(name), []).append(saved)
        for kind, other in product(kinds, judged):
            if kind in judged and other != kind:
                gain = np.mean(judged[kind], axis=0) - np.mean(judged[other], axis=0)
                yield Pair(self.translators, kind, other, float(gain[0]), interval(gain))

    def _saved_by_heads(self, weights: Weights) -> dict[str, Floats]:
        """By name, what each trained head saves at the middle target in every draw."""
        return {
            one.name: cross_fit(one.grid, weights, MIDDLE).saved
            for one in self.contenders
            if one.confidence == "head"
        }

    def _line(
        self,
        rule: str,
        target: float,
        judged: Judged,
        layers: Sequence[int],
        weights: Weights,
        with_stop: float,
        coarse: float,
    ) -> Line:
        share = judged.saved / weights.means(self.oracle.saved)
        static_saved, static_agreement = map(weights.means, self.statics[:2])
        gap = judged.agreement - twin_agreement(judged.saved, static_saved, static_agreement)
        found = twin(float(judged.saved[0]), static_saved[0], static_agreement[0])
        return Line(
            translators=self.translators,
            rule=rule,
            target=target,
            saved=float(judged.saved[0]),
            saved_interval=interval(judged.saved),
            saved_with_stop=with_stop,
            saved_coarse=coarse,
            agreement=float(judged.agreement[0]),
            agreement_interval=interval(judged.agreement),
            layers=float(judged.layers[0]),
            thresholds=judged.thresholds,
            of_oracle=float(share[0]),
            of_oracle_interval=interval(share),
            static=found
            and Static(layers[found.shallow], layers[found.deep], found.share, found.agreement),
            gap=float(gap[0]),
            gap_interval=interval(gap),
            verdict=verdict(gap, len(self.contenders)),
        )


def verdict(gap: Floats, rules: int) -> Verdict:
    """Whether a rule beats its static mixture, corrected for the number of rules in the table.

    Args:
        gap: (1 + R,) agreement less the mixture's, in every draw.
        rules: of the table.
    """
    low, high = interval(gap, 1 - (1 - LEVEL) / max(1, rules))
    return "beats" if low > 0 else "loses" if high < 0 else "not distinguishable"
