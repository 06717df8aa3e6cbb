"""A comparison's numbers as shares of all FLOPs, prompts included.

A fixed depth then runs its prompts at that depth too, as a shallower model does; exits leave
prompts at full depth.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.criteria.accounts import CostTable, Floats, Grid, PerDocument
from benchmarks.criteria.column import Column
from benchmarks.criteria.states import States
from dynamax_lm.core.costs import LayerCosts


def of_all_flops(column: Column, states: States, costs: LayerCosts) -> Column:
    """The same column with every saving as a share of all FLOPs.

    Args:
        column: of these documents, with savings of their answers' FLOPs.
        states: of the documents; each has text.
        costs: of the architecture.
    """
    table = CostTable.of_fixed_depths(states, costs, [0] * len(states.exits))
    seen = [len(one) - 1 for one in states.prompts]
    prompts = np.array([[costs.prompt(count, depth) for count in seen] for depth in states.layers])

    def answers(counted: Any) -> Floats:
        full = np.where(counted, table.full, 0.0)
        return np.bincount(states.document, full, minlength=len(states.tasks))

    text, everything = answers(states.of_text), answers(True)

    def scaled(numbers: PerDocument, own: Floats, beside: Floats | float = 0.0) -> PerDocument:
        return numbers._replace(saved=(numbers.saved * own + beside) / (own + prompts[-1]))

    def rescaled(grid: Grid, own: Floats) -> Grid:
        return Grid(grid.thresholds, scaled(grid.numbers, own))

    return replace(
        column,
        contenders=tuple(
            replace(
                one, grid=rescaled(one.grid, text), with_stop=rescaled(one.with_stop, everything)
            )
            for one in column.contenders
        ),
        oracle=scaled(column.oracle, text),
        statics=scaled(column.statics, text, prompts[-1] - prompts),
    )
