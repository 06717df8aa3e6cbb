"""Detection of forward hooks: operations written out in place of a module would bypass them."""

from __future__ import annotations

from torch import nn


def is_hooked(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its own ``forward``."""
    return bool(module._forward_pre_hooks or module._forward_hooks or "_hf_hook" in vars(module))


def any_hooked(*modules: nn.Module | None) -> bool:
    """Whether one of ``modules``, or a module inside one, is hooked."""
    return any(
        is_hooked(part) for module in modules if module is not None for part in module.modules()
    )
