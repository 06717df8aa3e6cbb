"""How deep tokens get in the end under ``skipped_state=recompute``: the rule, in plain numbers.

Owns the rule that the engine follows and the ledger bills. It does not know models or costs.

A token that left early waits. When a later token of its row goes deeper, it is run through the same
layers, in one batch with it. What still waits at the row's end is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

RECOMPUTE = "recompute"
"""The one skipped-state policy that is not a layer's own: an exited token runs further later."""

MOST_PENDING = 64
"""More waiting tokens in a row than this, and all are run to full depth before its next token."""


def crowded(pending: int) -> bool:
    """Whether ``waiting`` tokens of a row are too many."""
    return pending > MOST_PENDING


def reached(layers_used: Sequence[int], n_layers: int) -> list[int]:
    """Layers run for each of a row's tokens by the row's end, its own exit included.

    Args:
        layers_used: layers run for each token until its own exit, in order.
        n_layers: L.
    """
    depths: list[int] = []
    first = 0  # the first that still waits: an older token is never less deep than a newer one
    for used in layers_used:
        if crowded(len(depths) - first):
            depths[first:] = [n_layers] * (len(depths) - first)
            first = len(depths)
        place = len(depths)
        while place > first and depths[place - 1] < used:
            place -= 1
        depths[place:] = [used] * (len(depths) - place + 1)
        while first < len(depths) and depths[first] == n_layers:
            first += 1
    return depths
