"""The matrix products of a linear layer that torch has, and the memory layout of each.

There are four for one weight: ``F.linear``, which is trusted; the same with the weight on the left,
for a few rows; oneDNN's product of the plain weight; and oneDNN's product of a weight packed once
(:class:`Packed`, which replaces the plain layer). Speed and error depend on the processor;
``product_choice`` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.decoders.hooks import is_hooked

_TURNED_UP_TO = 16
"""Rows up to which a product with the weight on the left may be faster."""
_PACKED_FOR = 64
"""Rows that the packing is optimised for; it was at or near the best for 1 to 512 rows."""


class Packed(nn.Module):
    """An ``nn.Linear`` on a CPU, for inference, with its weight packed for oneDNN.

    It replaces the plain layer, whose weight can then be freed: the memory is the same. oneDNN has
    neither gradients nor autocast; with these the plain weight is rebuilt at each call.

    Args:
        linear: the plain layer.
        cut: index at which its outputs are split into two parts, each computable alone; 0 for none.
        width: columns of a piece, which is summed on its own: the error of oneDNN's order of sums
            may exceed that of ``F.linear``, and narrower pieces reduce it; 0 for all columns.
    """

    def __init__(self, linear: nn.Linear, cut: int = 0, width: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.cut = cut
        self.width = min(width or self.in_features, self.in_features)
        ends = [0, cut, self.out_features] if cut else [0, self.out_features]
        self._spans = list(pairwise(ends))
        self._parts: list[list[Tensor]] = []
        for start, end in self._spans:
            rows = linear.weight.detach()[start:end]
            self._parts.append([_arrange(piece) for piece in rows.split(self.width, dim=1)])
        for piece in (piece for part in self._parts for piece in part):
            name = f"piece_{len(self._parameters)}"  # parameters, so that they count as such
            self.register_parameter(name, nn.Parameter(piece, requires_grad=False))

    @property
    def weight(self) -> Tensor:
        """(E, D) the plain weight, rebuilt at each access."""
        return torch.cat([torch.cat([p.to_dense() for p in part], 1) for part in self._parts])

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles rebuild the packed weight, which itself cannot be copied."""
        plain = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features, bias=False)
        plain.weight = nn.Parameter(self.weight, requires_grad=False)
        plain.bias = self.bias
        return Packed, (plain, self.cut, self.width)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """The plain layer's entries, so that the model can be saved."""
        destination[f"{prefix}weight"] = self.weight
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()

    def part(self, rows: Tensor, index: int) -> Tensor:
        """(N, E') one part of the outputs of ``rows`` (N, D)."""
        start, end = self._spans[index]
        bias = None if self.bias is None else self.bias[start:end]
        pieces = self._parts[index]
        if len(pieces) == 1:
            return _linear(rows, pieces[0], bias)
        total: Tensor | None = None
        for columns, piece in zip(rows.split(self.width, dim=1), pieces, strict=True):
            total = _linear(columns, piece, bias) if total is None else _add(columns, piece, total)
        assert total is not None
        return total

    def forward(self, rows: Tensor) -> Tensor:
        """(..., E) of ``rows`` (..., D)."""
        if torch.is_autocast_enabled("cpu") or (torch.is_grad_enabled() and rows.requires_grad):
            return F.linear(rows, self.weight, self.bias)
        flat = rows if rows.dim() == 2 else rows.reshape(-1, self.in_features)
        parts = [self.part(flat, index) for index in range(len(self._parts))]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return whole if rows.dim() == 2 else whole.reshape(*rows.shape[:-1], self.out_features)


def can_pack(weight: Tensor) -> bool:
    """Whether this build and this processor have oneDNN's product of the packed ``weight``."""
    if weight.device.type != "cpu" or not _has_one_dnn():
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _has_bfloat16())


def can_call(weight: Tensor) -> bool:
    """Whether oneDNN has a product of the plain ``weight`` other than that of ``F.linear``.

    In low precision ``F.linear`` uses oneDNN itself.
    """
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and _has_one_dnn()


def computes_alone(rows: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's calls apply: no gradients, no autocast, and equal number formats."""
    if rows.dtype != weight.dtype or rows.device != weight.device:
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    return not (torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad))


def unpacked(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, E) oneDNN's product of rows (N, D) and a plain weight (E, D)."""
    return _linear(rows, weight, bias)


def turned(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, E) of rows (N, D) and a plain weight (E, D), for a few rows as ``weight @ rows^T``.

    For 2 to 8 rows MKL computes this two to three times as fast as ``rows @ weight^T`` on some
    processors; for other numbers of rows it is ``F.linear``.
    """
    if not is_turned(rows.shape[0]):
        return F.linear(rows, weight, bias)
    found = (weight @ rows.t()).t().contiguous()
    return found if bias is None else found.add_(bias)


def is_turned(rows: int) -> bool:
    """Whether :func:`turned` differs from ``F.linear`` for that many rows."""
    return 1 < rows <= _TURNED_UP_TO


def project_parted(
    linear: nn.Module, rows: Tensor, cut: int, whole: Callable[[nn.Module, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(N, cut) and (N, E - cut) of ``linear(rows)``; ``whole``: for layers that are not split."""
    if isinstance(linear, Packed) and linear.cut == cut:
        return linear.part(rows, 0), linear.part(rows, 1)
    both = whole(linear, rows)
    return both[:, :cut], both[:, cut:]


Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(N, E) of rows (N, D), a plain weight (E, D) and its bias (E,), if any."""


def torch_product(linear: nn.Linear, rows: Tensor) -> Product:
    """``F.linear``, for every plain layer and rows."""
    del linear, rows
    return F.linear


def project_first(
    linear: nn.Module,
    rows: Tensor,
    cut: int,
    product_of: Callable[[nn.Linear, Tensor], Product] = torch_product,
) -> Tensor:
    """(N, cut) the first of :func:`project_parted`, alone; ``product_of``: for a plain layer."""
    return _project_part(linear, rows, cut, 0, product_of)


def project_rest(
    linear: nn.Module,
    rows: Tensor,
    cut: int,
    product_of: Callable[[nn.Linear, Tensor], Product] = torch_product,
) -> Tensor:
    """(N, E - cut) the second of :func:`project_parted`, alone; ``product_of`` as above."""
    return _project_part(linear, rows, cut, 1, product_of)


def _project_part(
    linear: nn.Module,
    rows: Tensor,
    cut: int,
    part: int,
    product_of: Callable[[nn.Linear, Tensor], Product],
) -> Tensor:
    """The outputs before ``cut`` (``part`` 0), or from it on (1)."""
    if isinstance(linear, Packed) and linear.cut == cut:
        return linear.part(rows, part)
    some = slice(cut, None) if part else slice(None, cut)
    if is_plain(linear):
        bias = None if linear.bias is None else linear.bias[some]
        return product_of(linear, rows)(rows, linear.weight[some], bias)
    return project_trusted(linear, rows)[:, some]  # quantised, adapted or hooked: it cannot be cut


def project_trusted(linear: nn.Module, rows: Tensor) -> Tensor:
    """``linear(rows)``, as transformers calls it."""
    projected: Tensor = linear(rows)
    return projected


def is_plain(linear: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether ``linear`` is a plain linear layer: not adapted, quantised or hooked."""
    plain = type(linear) is nn.Linear and type(linear.weight) is nn.Parameter
    return plain and not is_hooked(linear)


def _arrange(weight: Tensor) -> Tensor:
    """(E, D) in the layout of oneDNN."""
    arranged: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_FOR)
    return arranged


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found


def _add(rows: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """``total`` plus a product, in one call."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, total, weight, None, "add")
    return found


@cache
def _has_one_dnn() -> bool:
    names = ("_linear_pointwise", "_reorder_linear_weight")
    there = all(hasattr(torch.ops.mkldnn, name) for name in names)
    return torch.backends.mkldnn.is_available() and there


@cache
def _has_bfloat16() -> bool:
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())
