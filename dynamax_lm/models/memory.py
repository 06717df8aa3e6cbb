"""Memory that the states of rows in flight may take."""

from __future__ import annotations

import psutil
import torch

_SHARE = 4
"""States may take one part in this many of the memory that is free."""


def state_bytes(device: torch.device) -> int:
    """Bytes that the states of rows in flight may take on ``device``."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    return free // _SHARE
