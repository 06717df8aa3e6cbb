"""Which tokens are the full-depth model's own by definition: the rule, in plain numbers.

Owns the rule that the engine follows and a report checks. It does not know models or passes.

A token that ran every layer over a state that no exit has touched is the full-depth model's token:
nothing distinguishes its computation from that of a model without exits. A second, parallel pass
over the same tokens sums in another order and may, in low precision, disagree; that disagreement is
the pass's rounding and never the exits' doing.
"""

from __future__ import annotations

from collections.abc import Sequence


def by_definition(layers_used: Sequence[int], n_layers: int, skipped_state: str) -> list[bool]:
    """For each of a row's tokens, whether it is full depth's own by definition.

    Up to a row's first exit its state is full depth's. After it, only ``recompute`` gives skipped
    layers what full depth would have given them; that state is exact up to the order of its sums,
    since tokens are run through their skipped layers in other groups than full depth runs them.

    Args:
        layers_used: layers run for each token until its own exit, in order.
        n_layers: L.
        skipped_state: what skipped layers remember of a token that left.
    """
    restored = skipped_state == "recompute"
    untouched = True
    own: list[bool] = []
    for used in layers_used:
        whole = used == n_layers
        own.append(whole and (untouched or restored))
        untouched = untouched and whole
    return own
