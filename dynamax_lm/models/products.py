"""The matrix products of a layer, by the quicker of torch's two libraries.

Owns one choice. On a CPU, ``F.linear`` in float32 is a product of MKL, which on processors not of
its maker uses less than their widest instructions. oneDNN, which torch carries for the same
purpose and already calls in bfloat16, reads the same weight, unpacked, 1.2 times faster for one
row, 1.6 times for 8 and 2 times for 64 and more (``docs/speed.md``).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_LARGE = 1 << 18
"""Elements of a weight from which oneDNN's dearer call pays: 7 us more, and 0.4 ms once a shape."""


def project(linear: nn.Module, rows: Tensor) -> Tensor:
    """``linear(rows)`` for rows (N, D), to rounding."""
    if type(linear) is nn.Linear and gains(rows, linear.weight):
        return product(rows, linear.weight, linear.bias)
    return project_trusted(linear, rows)


def project_trusted(linear: nn.Module, rows: Tensor) -> Tensor:
    """``linear(rows)``, as transformers calls it."""
    projected: Tensor = linear(rows)
    return projected


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` of rows (N, D) and weight (E, D), to rounding."""
    if not gains(rows, weight):
        return F.linear(rows, weight, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found


def gains(rows: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product is there, is the same, and was measured to be faster."""
    if rows.device.type != "cpu" or not rows.dtype == weight.dtype == torch.float32:
        return False
    if weight.numel() < _LARGE or not _has_one_dnn():
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    # It knows no gradients.
    return not (torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad))


@cache
def _has_one_dnn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
