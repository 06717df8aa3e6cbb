"""Detection of forward hooks: operations written out in place of a module would bypass them."""

from __future__ import annotations

from torch import nn


def is_hooked(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its own ``forward``."""
    return bool(module._forward_pre_hooks or module._forward_hooks or "_hf_hook" in vars(module))
