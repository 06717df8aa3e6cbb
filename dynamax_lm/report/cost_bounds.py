"""Bounds of what a document may cost under an exit policy."""

from __future__ import annotations

from dynamax_lm.common.intervals import Bounds
from dynamax_lm.core.costs import HybridCosts
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.report.costs import (
    costs_of,
    exit_extras_of,
    measure_of,
    prompt_maps_of,
    skipped_state_of,
)
from dynamax_lm.report.rows import Row


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
