"""Size of states in memory."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a state: tensors, sequences, mappings and dataclasses of them."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(tensor_bytes(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return sum(tensor_bytes(one) for one in value)
    if is_dataclass(value):
        return sum(tensor_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
