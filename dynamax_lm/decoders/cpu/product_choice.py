"""Choice of the matrix product of a weight, by measurement on the machine at hand.

Which product is fastest, and its error, depend on the processor, on the weight's shape and number
format, and on the number of rows. Measured are one to eight rows of a batch, the whole batch, and
the many rows of a prompt; ``product_rule`` decides. Packed weights are divided into the widest
pieces of columns that satisfy its bound on the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.decoders.cpu.product_meter import Clock, Meter, NumberedProduct
from dynamax_lm.decoders.cpu.product_rule import (
    LAW_MEASURED,
    TRUSTED,
    TURNED,
    UNPACKED,
    AtRows,
    Choice,
    decide,
    packed_name,
)
from dynamax_lm.decoders.cpu.products import (
    Packed,
    Product,
    can_call,
    can_pack,
    is_turned,
    turned,
    unpacked,
)

AUTO, PACKED, PLAIN = "auto", "packed", "plain"
"""Values of the setting: the measured choice, packed weights, or ``F.linear`` alone."""
_FEW = 8
"""Every row count up to it has its error measured, since rows exit: few of a batch may remain."""
_PROMPT = 64
"""Rows that represent a prompt."""
_WIDTHS = (1024, 512, 256, 128)
"""Column widths of the pieces of a packed float32 weight, widest first."""
_ELEMENTS = 1 << 21
"""Elements of a weight that are timed, in whole outputs; the time of the rest is proportional."""
_OUT_OF_CACHE = 64 << 20
"""Bytes of weights in each product's timing, if the model has enough of the shape. Each product has
copies of its own, so that between two readings of one as many bytes are read for every product."""


def choose(
    weights: Sequence[Tensor],
    *,
    batch: int,
    asked: str = AUTO,
    cut: int = 0,
    stays: bool = False,
    meter: Meter | None = None,
) -> Choice:
    """The product of weights (E, D) of one shape and number format.

    Args:
        weights: the model's own, at least one.
        batch: rows of a decoding step, at least 1; one row and a prompt's are always measured.
        asked: ``auto``, ``packed`` or ``plain``.
        cut: index at which the outputs are split (see ``Packed``).
        stays: whether the weight must not be repacked.
        meter: measures errors and times; a real one by default.
    """
    if asked == PLAIN:
        return Choice(why="asked for")
    meter = meter or Clock()
    some = _some(weights)
    cut = cut if cut < some[0].shape[0] else 0
    batch = min(batch, _PROMPT)
    counts = sorted({*range(1, min(batch, _FEW) + 1), 2, batch, _PROMPT})
    products: dict[str, NumberedProduct] = {
        TRUSTED: lambda rows, which: F.linear(rows, some[which])
    }
    with torch.inference_mode():
        errors = _Errors(meter, some[0], counts)
        errors.take(TRUSTED, products[TRUSTED])
        if can_call(some[0]) and asked == AUTO:
            products[UNPACKED] = _with_copies(unpacked, some)
            errors.take(UNPACKED, products[UNPACKED])
        if asked == AUTO:
            products[TURNED] = _with_copies(turned, some)
            errors.take(TURNED, products[TURNED])
        width = 0
        if not stays and can_pack(some[0]):
            for width in _widths(some[0]):
                products[packed_name(width)] = _packed(some, cut, width)
                errors.take(packed_name(width), products[packed_name(width)])
                if errors.lawful(packed_name(width), counts):
                    break
                del products[packed_name(width)]
        found = [AtRows(rows, errors.relative(rows), {}) for rows in counts]
        if asked == PACKED:
            return _forced(width, found)
        for place, one in enumerate(found):
            if one.rows not in {1, batch, _PROMPT}:
                continue
            alike = [rows for rows in counts if (rows == 1) == (one.rows == 1)]
            rivals = dict(products)
            for name in (UNPACKED, TURNED):
                same = name == TURNED and not is_turned(one.rows)  # as ``F.linear``
                if same or not errors.lawful(name, alike):
                    rivals.pop(name, None)
            if len(rivals) == 1:
                continue
            taken = meter.seconds(rivals, some, one.rows)
            found[place] = timed = one._replace(
                seconds={name: tuple(taken[name]) for name in taken}
            )
            packed = packed_name(width)
            if packed in rivals and timed.is_slower(packed):
                del products[packed]  # excluded if slower at one row count
    return decide(found, width)


def _forced(width: int, measured: Sequence[AtRows]) -> Choice:
    """The product that the user chose, whatever its error, which is reported."""
    if not width:
        return Choice(why="asked for packed, which this weight cannot be", measured=tuple(measured))
    name = packed_name(width)
    return Choice(name, name, width, "asked for", tuple(measured))


class _Errors:
    """Errors of products at each row count."""

    def __init__(self, meter: Meter, weight: Tensor, counts: Sequence[int]) -> None:
        self._meter, self._weight = meter, weight
        self._found: dict[int, dict[str, float]] = {rows: {} for rows in counts}

    def take(self, name: str, product: NumberedProduct) -> None:
        for rows, errors in self._found.items():
            errors[name] = self._meter.error(name, product, self._weight, rows)

    def relative(self, rows: int) -> dict[str, float]:
        errors = self._found[rows]
        trusted = errors[TRUSTED]
        return {name: _ratio(error, trusted) for name, error in errors.items()}

    def lawful(self, name: str, counts: Sequence[int]) -> bool:
        """Whether the error of ``name`` is within the bound at all these row counts."""
        never = float("inf")
        return all(self.relative(rows).get(name, never) <= LAW_MEASURED for rows in counts)


def _ratio(error: float, trusted: float) -> float:
    if trusted:
        return error / trusted
    return 1.0 if error == 0 else float("inf")


def _widths(weight: Tensor) -> list[int]:
    """Pieces to try, widest first: all columns in low precision, whose sums are float32."""
    columns = weight.shape[1]
    if weight.dtype != torch.float32:
        return [columns]
    return list(dict.fromkeys(min(width, columns) for width in _WIDTHS))


def _some(weights: Sequence[Tensor]) -> list[Tensor]:
    """The weights, or parts of them of one size, that are measured; as many as leave the cache."""
    first = weights[0]
    outputs = min(first.shape[0], max(1, _ELEMENTS // first.shape[1]))
    size = outputs * first.shape[1] * first.element_size()
    starts = range(0, first.shape[0] - outputs + 1, outputs)
    parts = (weight.detach()[start:][:outputs] for start in starts for weight in weights)
    return list(islice(parts, max(1, _OUT_OF_CACHE // size)))


def _with_copies(product: Product, weights: Sequence[Tensor]) -> NumberedProduct:
    """``product`` with copies of the weights, each made at its first use.

    A product that shared them would find a weight in the cache that another has just read, and the
    packed ones, which are copies in any case, would look slow beside it.
    """
    copies: dict[int, Tensor] = {}

    def numbered(rows: Tensor, which: int) -> Tensor:
        if which not in copies:
            copies[which] = weights[which].clone()
        return product(rows, copies[which], None)

    return numbered


def _packed(weights: Sequence[Tensor], cut: int, width: int) -> NumberedProduct:
    """The product of packed copies, each made at its first use."""
    arranged: dict[int, Packed] = {}

    def product(rows: Tensor, which: int) -> Tensor:
        if which not in arranged:
            plain = nn.utils.skip_init(nn.Linear, *weights[which].shape[::-1], bias=False)
            plain.weight = nn.Parameter(weights[which], requires_grad=False)
            arranged[which] = Packed(plain, cut, width)
        layer = arranged[which]
        first = layer.part(rows, 0)
        return torch.cat([first, layer.part(rows, 1)], dim=-1) if cut else first

    return product
