"""Whether several processor threads are slower than one, because other programs use the cores.

The threads of a product meet at its end. Where another program holds a core, all of them stand
still until the last one has run: some 50 ms for each product, which on one thread of a small model
takes less than a tenth of a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn.functional import linear

SLOWER = 3.0
"""From this ratio on, of several threads to one, there is a warning. Without other load it is about
1 or less."""
_ROUNDS, _PRODUCTS = 3, 3
_ROWS, _WIDEST = 8, 4096


def seconds_of_products(threads: int, width: int) -> float:
    """Wall-clock seconds of a few products of (8, width) with (width, width), on some threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows, weight = torch.ones(_ROWS, width), torch.ones(width, width)
        start = time.perf_counter()
        for _ in range(_PRODUCTS):
            rows = linear(rows, weight).clamp(0.0, 1.0)
        return time.perf_counter() - start
    finally:
        torch.set_num_threads(before)


def busy_cores(width: int, measure: Callable[[int, int], float] = seconds_of_products) -> str:
    """A warning where torch's threads are slower than one would be, else nothing.

    Takes some milliseconds, or about half a second where the cores are busy.

    Args:
        width: of the model's layers; the wider, the less it matters.
        measure: seconds on a number of threads, at a width.
    """
    threads, width = torch.get_num_threads(), min(width, _WIDEST)
    if threads < 2:
        return ""
    measure(threads, width)  # starts them
    rounds = [(measure(threads, width), measure(1, width)) for _ in range(_ROUNDS)]
    ratio = median(several for several, _ in rounds) / median(one for _, one in rounds)
    if ratio < SLOWER:
        return ""
    return (
        f"{threads} processor threads take {ratio:.0f} times as long as one for products of this "
        "model's width: other programs use the cores; set OMP_NUM_THREADS=1 to run this faster"
    )
