"""Exchange of values between data-parallel processes, through lm-eval's gathering."""

from __future__ import annotations

from typing import TypeVar

from dynamax_lm.harness.run_registry import Ranks

T = TypeVar("T")


def everywhere(ranks: Ranks, value: T) -> list[T]:
    """Every rank's ``value``, in rank order, on every rank.

    lm-eval gathers to one rank only, so this gathers to each in turn; values are small.
    """
    gathered: list[T] = [value]
    if ranks.world_size > 1:
        for destination in range(ranks.world_size):
            received = ranks.gather_object(value, dst=destination)
            if received is not None and destination == ranks.rank:
                gathered = received
    return gathered
