"""Holm's step-down correction for the number of comparisons of a page."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for the family-wise error rate.

    Holm (1979): the k-th smallest of m is multiplied by m - k + 1, and none is less than the one
    before it. It is valid under any dependence of the comparisons, which share documents.

    Args:
        p_values: each in [0, 1].

    Returns:
        In the given order, each in [0, 1] and never less than its own p-value.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
