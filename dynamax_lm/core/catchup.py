"""Final depths of tokens under ``skipped_state=recompute``: the rule that the ledger bills.

An exited token stays pending. When a later token of its row runs deeper, the pending token runs
through the same layers in one batch with it. Layers of tokens still pending at the row's end are
never run.
"""

from __future__ import annotations

from collections.abc import Sequence

RECOMPUTE = "recompute"
"""EE-LLM's KV recomputation: exited tokens run their skipped layers later, with deeper tokens. The
only skipped-state policy that is not a method of a layer."""

MOST_PENDING = 64
"""If a row has more pending tokens, all of them run to full depth before its next token."""


def too_many_pending(pending: int) -> bool:
    """Whether a row with ``pending`` pending tokens runs them before its next token."""
    return pending > MOST_PENDING


def final_depths(layers_used: Sequence[int], n_layers: int) -> list[int]:
    """Layers run for each of a row's tokens by the row's end, before and after its exit.

    Args:
        layers_used: layers run for each token until its own exit, in order.
        n_layers: L.
    """
    depths: list[int] = []
    first = 0  # the first pending token; depths of pending tokens do not increase along the row
    for used in layers_used:
        if too_many_pending(len(depths) - first):
            depths[first:] = [n_layers] * (len(depths) - first)
            first = len(depths)
        place = len(depths)
        while place > first and depths[place - 1] < used:
            place -= 1
        depths[place:] = [used] * (len(depths) - place + 1)
        while first < len(depths) and depths[first] == n_layers:
            first += 1
    return depths
