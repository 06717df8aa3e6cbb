"""Timing of several callables in turns, so that load on the machine affects all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

from dynamax_lm.engine.phase_timer import finish_queued_work

Contestant = Callable[[], object]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""``processor`` counts this process alone: with one thread it is independent of other load."""

_clock = CLOCKS["wall"]


def use_clock(name: str) -> None:
    """Measure wall-clock time, or the processor time of this process."""
    global _clock
    _clock = CLOCKS[name]


def seconds(run: Contestant) -> float:
    """Seconds of one call; synchronises with a GPU at both ends."""
    finish_queued_work()
    start = _clock()
    run()
    finish_queued_work()
    return _clock() - start


def alternate(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, float]:
    """Median seconds of each callable over ``rounds`` rounds, after one warm-up each.

    Every round runs all of them, every other round in reverse order.
    """
    return medians(samples(contestants, rounds))


def samples(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Seconds of each callable in each round."""
    order = list(contestants)
    for name in order:
        contestants[name]()
    taken: dict[str, list[float]] = {name: [] for name in order}
    for number in range(rounds):
        gc.collect()
        for name in order if number % 2 == 0 else reversed(order):
            taken[name].append(seconds(contestants[name]))
    return taken


def medians(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each list."""
    return {name: statistics.median(values) for name, values in taken.items()}


def per_step(short: str, long: str, steps: int, taken: Mapping[str, list[float]]) -> float:
    """Median seconds of one of the ``steps`` by which ``long`` is longer than ``short``.

    Paired within a round; common work (a prompt, the set-up of a call) cancels.
    """
    pairs = zip(taken[short], taken[long], strict=True)
    return statistics.median((b - a) / steps for a, b in pairs)
