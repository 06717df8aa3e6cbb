"""Release the resident pages of a mapped checkpoint file that are no longer read.

A checkpoint's file is mapped, and its pages stay resident as long as any tensor of it is in use,
also those of weights that have been repacked. Memory outside a file is not touched: it is freed
with its tensor, and the advice would write it to swap.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

_PAGE_OUT = 21
"""``MADV_PAGEOUT`` of Linux 5.4: reclaim now. No data is lost: a file's pages can be read again."""


def page_out(tensor: Tensor) -> bool:
    """Release the pages of a mapped ``tensor``; whether it is mapped and the kernel did so."""
    advise = _madvise()
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.nbytes) // page * page
    if advise is None or tensor.device.type != "cpu" or end <= start or not _of_a_file(start):
        return False
    taken: int = advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _PAGE_OUT)
    return taken == 0


@cache
def _madvise() -> Any:
    """The C library's call, or ``None`` where there is none."""
    return getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None


def _of_a_file(address: int) -> bool:
    """Whether ``address`` lies in a mapped file."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        span, _, _, _, inode = line.split(maxsplit=5)[:5]
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            return inode != "0"
    return False
