"""One backbone's comparison: every measure and head, run over the test documents.

It determines the rules compared and what each costs; it uses neither files nor pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.criteria.accounts import (
    CostTable,
    Grid,
    PerDocument,
    static_depths,
)
from benchmarks.criteria.asking import Exits, Fixed, Rule, Trained
from benchmarks.criteria.column import Column, Contender
from benchmarks.criteria.kinds import STEP
from benchmarks.criteria.states import States
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import HeadCosts
from dynamax_lm.heads import ExitHeads


def thresholds(step: float = STEP) -> tuple[float, ...]:
    """One grid for all rules: 0, even log-odds from -4 to 14, and 1, without exits.

    Even log-odds are dense near 1, where most confidences are.

    Args:
        step: of the log-odds.
    """
    odds = np.arange(-4.0, 14.0 + step / 2, step)
    return (0.0, *(1.0 / (1.0 + np.exp(-odds))).tolist(), 1.0)


class Extended(NamedTuple):
    """A classifier that reads more than the hidden state.

    Attributes:
        rule: its decisions.
        heads: the classifier; its translators are the column's.
        flops: of what else it reads, at each exit, for one token.
    """

    rule: Rule
    heads: ExitHeads
    flops: tuple[int, ...]


def compare(
    translators: str,
    states: States,
    exits: Exits,
    bank: ExitHeads | None,
    classifiers: Mapping[str, ExitHeads],
    costs: DecoderCosts,
    skipped_state: str,
    grid: Sequence[float],
    extended: Mapping[str, Extended] = MappingProxyType({}),
) -> Column:
    """Run every rule over the test documents.

    Args:
        translators: name of the column.
        states: of the test documents; each has text.
        exits: tokens and confidences of their exits.
        bank: the translators, if any.
        classifiers: trained heads by name.
        costs: of the architecture.
        skipped_state: what is billed for skipped layers.
        grid: thresholds, the same for every rule.
        extended: further classifiers by name.
    """
    extra = [0 if bank is None else bank.translator_flops(layer) for layer in states.exits]
    of_text = states.of_text
    everything = np.ones(len(of_text), dtype=bool)
    nothing = [0] * len(states.exits)

    def cost_table(
        confidence: str, heads: ExitHeads | None, counted: Any, beside: Sequence[int] = nothing
    ) -> CostTable:
        extras = [
            HeadCosts(other + (0 if heads is None else heads.classifier_flops(layer)), flops)
            for layer, flops, other in zip(states.exits, extra, beside, strict=True)
        ]
        return CostTable.of(states, costs, confidence, skipped_state, extras, counted)

    def contender(
        name: str,
        rule: Rule,
        confidence: str,
        heads: ExitHeads | None,
        beside: Sequence[int] = nothing,
    ) -> Contender:
        leaves = [rule.leave(at) for at in grid]
        text, stop = (
            Grid(
                np.array(grid),
                PerDocument.stack([bill.account(leave, exits.right) for leave in leaves]),
            )
            for bill in (
                cost_table(confidence, heads, counted, beside) for counted in (of_text, everything)
            )
        )
        return Contender(name, confidence, heads, text, stop)

    found = [
        contender(name, Fixed(confidence), name, bank)
        for name, confidence in exits.confidences.items()
    ]
    trained = {
        name: Extended(Trained(heads, states).rule(), heads, tuple(nothing))
        for name, heads in classifiers.items()
    }
    for name, one in {**trained, **extended}.items():
        found.append(contender(name, one.rule, "head", one.heads, one.flops))
    first_right = np.where(exits.right.any(0), exits.right.argmax(0), len(states.exits))
    fixed = CostTable.of_fixed_depths(states, costs, extra, of_text)
    return Column(
        translators=translators,
        contenders=tuple(found),
        oracle=cost_table("oracle", None, of_text).account(first_right, exits.right),
        statics=static_depths(fixed, exits.right),
        exit_agreement=tuple(float(row[of_text].mean()) for row in exits.right),
    )
