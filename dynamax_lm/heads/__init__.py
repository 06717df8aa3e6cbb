"""Trained exit heads: classifiers, which decide exits, and translators before the unembedding.

Maps for prompts that exit are beside them: translators whose target is a layer's input.

Names are imported when they are first used: the options of the training command need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamax_lm.heads.backbone_check import check_shape
    from dynamax_lm.heads.bank import ExitHeads, HeadsState
    from dynamax_lm.heads.config import HeadsConfig
    from dynamax_lm.heads.store import find_folder, read_config, write_config

__all__ = [
    "ExitHeads",
    "HeadsConfig",
    "HeadsState",
    "check_shape",
    "find_folder",
    "read_config",
    "write_config",
]

_PLACES = {
    "ExitHeads": "bank",
    "HeadsConfig": "config",
    "HeadsState": "bank",
    "check_shape": "backbone_check",
    "find_folder": "store",
    "read_config": "store",
    "write_config": "store",
}


def __getattr__(name: str) -> Any:
    """One of the public names.

    Raises:
        AttributeError: there is none of that name.
    """
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
