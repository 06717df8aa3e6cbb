"""Shares of all FLOPs: prompts beside answers, those of a fixed depth at its own depth."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.criteria.accounts import CostTable, Grid, static_depths
from benchmarks.criteria.column import Column, Contender
from benchmarks.criteria.states import States
from benchmarks.real.totals import of_all_flops
from dynamax_lm.core.costs import norm_flops, unembed_flops
from tests.builders import small_costs

COSTS = small_costs(vocabulary=32)
EXITS, PROMPTS, LENGTHS, TEXT = (1, 3), (5, 2, 9), (3, 1, 4), (2, 1, 3)
LAYERS = (*EXITS, COSTS.n_layers)


@pytest.fixture(scope="module")
def states() -> States:
    positions = [np.arange(n) + prompt - 1 for n, prompt in zip(LENGTHS, PROMPTS, strict=True)]
    return States(
        layers=LAYERS,
        hidden=np.zeros((len(LAYERS), sum(LENGTHS), 8), np.float32),
        document=np.repeat(np.arange(len(LENGTHS)), LENGTHS),
        position=np.concatenate(positions),
        token=np.zeros(sum(LENGTHS), np.int64),
        tasks=("a",) * len(LENGTHS),
        prompts=tuple((1,) * prompt for prompt in PROMPTS),
        text=np.array(TEXT),
    )


def spent(depth: int, prompt: int, tokens: int, prompt_depth: int) -> int:
    """FLOPs of ``tokens`` at one depth after a prompt, whose last token is the first of them."""
    answer = COSTS.prompt(prompt - 1 + tokens, depth) - COSTS.prompt(prompt - 1, depth)
    return (
        answer
        + tokens * (norm_flops(COSTS) + unembed_flops(COSTS))
        + COSTS.prompt(prompt - 1, prompt_depth)
    )


def test_savings_are_of_prompts_and_answers_together(states: States) -> None:
    right = np.ones((len(EXITS), sum(LENGTHS)), bool)

    def depths(counted: object) -> object:
        table = CostTable.of_fixed_depths(states, COSTS, [0] * len(EXITS), counted)  # type: ignore[arg-type]
        return static_depths(table, right)

    text, everything = depths(states.of_text), depths(None)
    thresholds = np.array([0.0, 0.5, 1.0])
    rule = Contender("rule", "head", None, Grid(thresholds, text), Grid(thresholds, everything))  # type: ignore[arg-type]
    column = Column("none", (rule,), text, text, (1.0, 1.0))  # type: ignore[arg-type]
    found = of_all_flops(column, states, COSTS)
    for number, depth in enumerate(LAYERS):
        for document, prompt in enumerate(PROMPTS):
            for tokens, by_rule in (
                (TEXT[document], found.contenders[0].grid.numbers),
                (LENGTHS[document], found.contenders[0].with_stop.numbers),
            ):
                full = spent(4, prompt, tokens, 4)
                # A rule's prompts run all layers, a fixed depth's its own.
                mine = spent(depth, prompt, tokens, 4)
                assert by_rule.saved[number, document] == pytest.approx(1 - mine / full)
            full = spent(4, prompt, TEXT[document], 4)
            shallow = spent(depth, prompt, TEXT[document], depth)
            assert found.statics.saved[number, document] == pytest.approx(1 - shallow / full)
    assert np.array_equal(found.oracle.saved, found.contenders[0].grid.numbers.saved)
