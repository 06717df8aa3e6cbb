"""The matrix products of a layer, by the quicker of torch's two libraries.

Owns that choice, and how a weight lies in memory. On a CPU, ``F.linear`` in float32 is a product
of MKL, which on processors not of its maker uses less than their widest instructions, and in
bfloat16 one of oneDNN over a weight that does not lie as it likes best. oneDNN's product of a
weight that was arranged once is faster in both (``docs/speed.md``): :class:`Packed` keeps such a
weight in place of the plain one. It does not know which products a layer has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.models.hooks import is_hooked
from dynamax_lm.models.pages import page_out

_WORTH_PACKING = 1 << 16
"""Elements of a weight from which a packed product pays: its call is dearer by some 10 us."""
_WORTH_A_CALL = 1 << 18
"""The same for a plain weight that stays as it is: 7 us more, and 0.4 ms once a shape."""
_SUMMED_AT_ONCE = 1024
"""Columns. oneDNN sums them in a plainer order than MKL does: more of them, and its error would
exceed twice MKL's."""
_PACKED_FOR = 64
"""Rows that the arrangement is chosen for; it was the best, or near it, for 1 to 512 rows."""


class Packed(nn.Module):
    """An ``nn.Linear`` on a CPU, for inference, with its weight arranged for oneDNN.

    It takes the place of the plain layer, whose weight can then be freed: the memory is the same.
    As oneDNN knows no gradients and no autocast, these take the plain weight, rebuilt at each call.

    Args:
        linear: the plain layer.
        cut: where to part its outputs into two that can be had alone; 0 for one.
    """

    def __init__(self, linear: nn.Linear, cut: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.cut = cut
        exact = linear.weight.dtype == torch.float32
        self._width = _SUMMED_AT_ONCE if exact else self.in_features
        ends = [0, cut, self.out_features] if cut else [0, self.out_features]
        self._spans = list(pairwise(ends))
        self._parts: list[list[Tensor]] = []
        for start, end in self._spans:
            rows = linear.weight.detach()[start:end]
            self._parts.append([_arrange(piece) for piece in rows.split(self._width, dim=1)])
        for piece in (piece for part in self._parts for piece in part):
            name = f"piece_{len(self._parameters)}"  # parameters, so that they are counted
            self.register_parameter(name, nn.Parameter(piece, requires_grad=False))

    @property
    def weight(self) -> Tensor:
        """(E, D) the plain weight, rebuilt: to look at, not to compute with."""
        return torch.cat([torch.cat([p.to_dense() for p in part], 1) for part in self._parts])

    def __reduce__(self) -> tuple[Any, ...]:
        """How to copy or pickle it, which arranged weights cannot be: arranged again."""
        plain = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features, bias=False)
        plain.weight = nn.Parameter(self.weight, requires_grad=False)
        plain.bias = self.bias
        return Packed, (plain, self.cut)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """As the plain layer would, so that the model can be saved."""
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
        for columns, piece in zip(rows.split(self._width, dim=1), pieces, strict=True):
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


def pack(parent: nn.Module, names: Sequence[str], *, cut: int = 0) -> None:
    """Put a :class:`Packed` in the place of each named layer of ``parent`` that gains by it."""
    for name in names:
        linear = getattr(parent, name)
        if packs(linear):
            setattr(parent, name, Packed(linear, cut))
            page_out(linear.weight)


def packs(linear: nn.Module) -> bool:
    """Whether ``linear`` is a plain layer whose product was measured to gain."""
    if not _is_plain(linear):
        return False
    weight = linear.weight
    if weight.device.type != "cpu" or weight.numel() < _WORTH_PACKING or not _has_one_dnn():
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _has_bfloat16())


def project(linear: nn.Module, rows: Tensor) -> Tensor:
    """``linear(rows)`` for rows (N, D), to rounding."""
    if type(linear) is nn.Linear and gains(rows, linear.weight) and _is_plain(linear):
        return _linear(rows, linear.weight, linear.bias)
    return project_trusted(linear, rows)


def project_parted(
    linear: nn.Module, rows: Tensor, cut: int, whole: Callable[[nn.Module, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(N, cut) and (N, E - cut) of ``linear(rows)``; ``whole`` computes what cannot be parted."""
    if isinstance(linear, Packed) and linear.cut == cut:
        return linear.part(rows, 0), linear.part(rows, 1)
    both = whole(linear, rows)
    return both[:, :cut], both[:, cut:]


def project_rest(linear: nn.Module, rows: Tensor, cut: int) -> Tensor:
    """(N, E - cut) the second of :func:`project_parted`, alone."""
    if isinstance(linear, Packed) and linear.cut == cut:
        return linear.part(rows, 1)
    if _is_plain(linear):
        bias = None if linear.bias is None else linear.bias[cut:]
        return F.linear(rows, linear.weight[cut:], bias)
    return project_trusted(linear, rows)[:, cut:]  # quantised, adapted or hooked: it cannot be cut


def project_trusted(linear: nn.Module, rows: Tensor) -> Tensor:
    """``linear(rows)``, as transformers calls it."""
    projected: Tensor = linear(rows)
    return projected


def gains(rows: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product of a plain weight is the same, and was measured to be faster."""
    if rows.device.type != "cpu" or not rows.dtype == weight.dtype == torch.float32:
        return False
    if weight.numel() < _WORTH_A_CALL or weight.shape[1] > _SUMMED_AT_ONCE or not _has_one_dnn():
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    # It knows no gradients.
    return not (torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad))


def _is_plain(linear: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether ``linear`` is its weight and bias and no more: not adapted, quantised or hooked."""
    plain = type(linear) is nn.Linear and type(linear.weight) is nn.Parameter
    return plain and not is_hooked(linear)


def _arrange(weight: Tensor) -> Tensor:
    """(E, D) as oneDNN reads it."""
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
