"""Advice to the kernel about memory that nobody will read again.

Owns one call. A checkpoint's file is mapped, and its pages stay resident as long as any tensor of
it is in use; once a weight has been arranged anew, its plain pages would be held for nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

from torch import Tensor

_PAGE_OUT = 21
"""``MADV_PAGEOUT`` of Linux 5.4: reclaim now. No data is lost: a file's pages can be read again."""


def page_out(tensor: Tensor) -> bool:
    """Let the whole pages below ``tensor`` go; whether the kernel took the advice."""
    advise = _madvise()
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.nbytes) // page * page
    if advise is None or tensor.device.type != "cpu" or end <= start:
        return False
    taken: int = advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _PAGE_OUT)
    return taken == 0


@cache
def _madvise() -> Any:
    """The C library's call, or ``None`` where there is none."""
    return getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
