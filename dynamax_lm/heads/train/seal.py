"""The seal of a training checkpoint: a digest of its values.

It detects accidental changes, such as a damaged disk; whoever can write a file can also seal it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor

_SEAL = "seal"


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` with its seal."""
    return {**state, _SEAL: _seal_of(state)}


def unsealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a sealed state.

    Raises:
        ValueError: they are not those that were sealed.
    """
    values = {name: value for name, value in state.items() if name != _SEAL}
    if state.get(_SEAL) != _seal_of(values):
        raise ValueError("its values are not those that were written")
    return values


def _seal_of(value: object) -> str:
    digest = xxhash.xxh3_128()
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: xxhash.xxh3_128, value: object) -> None:
    """Add a tensor's bytes, a container's parts, or another value as Python writes it."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(b"{")
        for name in sorted(value, key=repr):
            digest.update(repr(name).encode() + b":")
            _add(digest, value[name])
        digest.update(b"}")
    elif isinstance(value, (list, tuple)):
        digest.update(b"[")
        for part in value:
            _add(digest, part)
            digest.update(b",")
        digest.update(b"]")
    else:
        digest.update(repr(value).encode())
