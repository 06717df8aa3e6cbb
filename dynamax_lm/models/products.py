"""A matrix product for a handful of rows.

Owns one shortcut. On a CPU, the float32 product of 2 to 8 rows with a large transposed weight (the
way of ``F.linear``) takes longer than twice one row, though all of them read the weight once; the
same product with the operands exchanged takes about as long as one row, up to four rows. A batch
whose rows leave at different layers has such few rows most of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_AT_ONCE = 4
"""Rows whose exchanged product costs about as much as one row's."""


def project(linear: nn.Module, rows: Tensor) -> Tensor:
    """``linear(rows)`` for rows (N, D), to rounding."""
    if type(linear) is nn.Linear and few(rows, linear.weight):
        return product(rows, linear.weight, linear.bias)
    return project_trusted(linear, rows)


def project_trusted(linear: nn.Module, rows: Tensor) -> Tensor:
    """``linear(rows)``, as transformers calls it."""
    projected: Tensor = linear(rows)
    return projected


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` of rows (N, D) and weight (E, D), to rounding."""
    if not few(rows, weight):
        return F.linear(rows, weight, bias)
    parts = [torch.mm(weight, part.t()) for part in rows.split(_AT_ONCE)]
    together = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).t().contiguous()
    return together if bias is None else together.add_(bias)


def few(rows: Tensor, weight: Tensor) -> bool:
    """Whether the exchanged product was measured to be faster: narrow weights gain up to 3 rows."""
    if rows.device.type != "cpu" or rows.dtype != torch.float32 or rows.dim() != 2:
        return False
    if torch.is_autocast_enabled("cpu") or not torch.backends.mkl.is_available():
        return False
    wide = weight.shape[0] >= weight.shape[1]
    return 2 <= rows.shape[0] <= (2 * _AT_ONCE if wide else _AT_ONCE - 1)
