"""Modules that somebody hooked: what we spell out in their place would pass their hooks by.

Owns how to tell.
"""

from __future__ import annotations

from torch import nn


def is_hooked(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its own ``forward``."""
    return bool(module._forward_pre_hooks or module._forward_hooks or "_hf_hook" in vars(module))
