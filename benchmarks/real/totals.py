"""A comparison's numbers as shares of all FLOPs, prompts included.

A fixed depth then runs its prompts at that depth too, as a shallower model does; exits leave
prompts at full depth.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.criteria.accounts import CostTable, Floats, Grid, PerDocument
from benchmarks.criteria.states import States
from benchmarks.criteria.study import Column
from dynamax_lm.core.costs import LayerCosts


def of_all_flops(column: Column, states: States, costs: LayerCosts) -> Column:
    """The same column with every saving as a share of all FLOPs.

    Args:
        column: of these documents, with savings of their answers' FLOPs.
        states: of the documents; each has text.
        costs: of the architecture.
    """
    table = CostTable.of_fixed_depths(states, costs, [0] * len(states.exits), states.of_text)
    full = np.where(table.counted, table.full, 0.0)
    answers = np.bincount(states.document, full, minlength=len(states.tasks))
    seen = [len(one) - 1 for one in states.prompts]
    prompts = np.array([[costs.prompt(count, depth) for count in seen] for depth in states.layers])
    whole = answers + prompts[-1]

    def scaled(numbers: PerDocument, beside: Floats | float = 0.0) -> PerDocument:
        return numbers._replace(saved=(numbers.saved * answers + beside) / whole)

    def rescaled(grid: Grid) -> Grid:
        return Grid(grid.thresholds, scaled(grid.numbers))

    return replace(
        column,
        contenders=tuple(
            replace(one, grid=rescaled(one.grid), with_stop=rescaled(one.with_stop))
            for one in column.contenders
        ),
        oracle=scaled(column.oracle),
        statics=scaled(column.statics, prompts[-1] - prompts),
    )
