"""Whether a configuration describes a model of about the size that its weights files hold.

transformers allocates what a configuration describes before it compares shapes. Only folders are
compared here; a repository of the hub is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.description import text_config

_HARMLESS = 4096
"""A configuration without a number above it describes nothing large."""
_ALLOWED = 16
"""Numbers described per number stored: packed formats store eight of 4 bits in one of 32."""
_LONGEST_HEADER = 100_000_000


def check_described_size(pretrained: object, config: Any, auto_class: Any) -> None:
    """Refuse a configuration of far more weights than the files hold, before any are allocated.

    Args:
        pretrained: a folder; a name of the hub is passed by.
        config: transformers' configuration.
        auto_class: of transformers, which makes the model.

    Raises:
        SettingError: names both numbers.
    """
    folder = Path(str(pretrained))
    if not folder.is_dir() or max(_integers(config.to_dict()), default=0) <= _HARMLESS:
        return
    shapes = [shape for path in folder.glob("*.safetensors") for shape in _shapes(path)]
    if not shapes:
        return  # the loader tells what is wrong
    layers = getattr(text_config(config), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(shapes):
        raise SettingError(
            f"pretrained={str(pretrained)!r}: config.json says num_hidden_layers={layers}, and "
            f"the weights files hold {len(shapes)} tensors; correct the configuration"
        )
    stored, described = sum(map(prod, shapes)), _parameters(config, auto_class)
    if described > _ALLOWED * stored:
        raise SettingError(
            f"pretrained={str(pretrained)!r}: config.json describes {described:,} weights, and the "
            f"files hold {stored:,}; correct the configuration"
        )


def _parameters(config: Any, auto_class: Any) -> int:
    """Of the model that ``config`` describes, which takes no memory."""
    import torch

    with torch.device("meta"):
        model = auto_class.from_config(config)
    return sum(one.numel() for one in model.parameters())


def _integers(value: Any) -> Iterator[int]:
    """All whole numbers inside."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    for inside in value.values() if isinstance(value, dict) else ():
        yield from _integers(inside)
    for inside in value if isinstance(value, (list, tuple)) else ():
        yield from _integers(inside)


def _shapes(path: Path) -> Iterator[list[int]]:
    """Of a safetensors file's tensors; none of a damaged one, which its library refuses."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        yield from [one["shape"] for name, one in header.items() if name != "__metadata__"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return
