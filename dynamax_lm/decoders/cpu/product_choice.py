"""Choice of the matrix product of a weight, by measurement on the machine at hand.

Which product is fastest, and its error, depend on the processor, on the weight's shape and number
format, and on the number of rows:

1. *Error bound.* A product is admissible only if its root mean square error is at most twice that
   of ``F.linear``, the trusted one, for one to eight rows of a batch, the whole batch, and the many
   rows of a prompt.
   Packed weights are divided into the widest pieces of columns that satisfy it.
2. *Speed.* Of the admissible products, another than ``F.linear`` is chosen if it is significantly
   faster over all row counts together, and significantly slower at none of them. Two estimates of
   each time say so, and both must agree: the load of other programs rarely biases both alike.

A weight is packed for all row counts or for none, as it is in memory once; where it stays plain,
one row and several rows may use different products.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.decoders.cpu.product_meter import Clock, Meter, NumberedProduct
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
TRUSTED = "F.linear"
UNPACKED = "oneDNN"
TURNED = "turned F.linear"
"""The weight on the left, where there are a few rows; for one row it is ``F.linear``."""
LAW = 2.0
"""Largest admissible error, as a multiple of the trusted product's."""
NOISE = 0.05
"""Relative differences in time below this are ignored."""

_LAW_MEASURED = 0.9 * LAW
"""The bound on a measured error, which a sample of outputs gives to within some percent."""
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


class AtRows(NamedTuple):
    """What was measured at one row count.

    Attributes:
        rows: N.
        errors: of each product, as a multiple of the trusted one's; 1 where both are exact.
        seconds: of each product that was timed, per round.
    """

    rows: int
    errors: dict[str, float]
    seconds: dict[str, tuple[float, ...]]

    def slowness(self, name: str) -> float:
        """Time of ``name`` relative to the trusted product: the larger of two estimates.

        1 where it was not timed because it is the trusted product there.
        """
        return max(self._estimates(name))

    def is_slower(self, name: str) -> bool:
        """Whether ``name`` takes longer than the trusted product beyond noise, by both estimates.

        A single fast round of the trusted product, of a weight that was in the cache, is no reason.
        """
        return min(self._estimates(name)) > 1 + NOISE

    def _estimates(self, name: str) -> tuple[float, float]:
        """The median of the ratio over rounds, and the ratio of the fastest rounds."""
        mine, trusted = self.seconds.get(name, self.seconds[TRUSTED]), self.seconds[TRUSTED]
        paired = statistics.median(a / b for a, b in zip(mine, trusted, strict=True))
        return paired, min(mine) / min(trusted)


@dataclass(frozen=True, slots=True)
class Choice:
    """The products chosen for the weights of one shape, and the measurements.

    Attributes:
        one_row: product for a single row.
        more_rows: product for several rows.
        width: columns of a packed weight's pieces; 0 for a plain weight.
        why: the reason, in words.
        measured: by row count, ascending; empty where there was no choice.
    """

    one_row: str = TRUSTED
    more_rows: str = TRUSTED
    width: int = 0
    why: str = ""
    measured: tuple[AtRows, ...] = field(default=())

    @property
    def name(self) -> str:
        """The product, or both with their rows."""
        if self.one_row == self.more_rows:
            return self.one_row
        return f"{self.one_row} for one row, {self.more_rows} for more"

    def describe(self) -> dict[str, Any]:
        """As JSON: errors as multiples of the trusted product's, times in microseconds."""
        return {
            "chosen": self.name,
            "why": self.why,
            "measured": [
                {
                    "rows": one.rows,
                    "errors": {name: _rounded(value) for name, value in one.errors.items()},
                    "microseconds": {
                        name: _rounded(1e6 * statistics.median(some))
                        for name, some in one.seconds.items()
                    },
                    "slowness": {
                        name: _rounded(one.slowness(name))
                        for name in one.seconds
                        if name != TRUSTED
                    },
                }
                for one in self.measured
            ],
        }


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


def decide(measured: Sequence[AtRows], width: int) -> Choice:
    """The rule of this module, on numbers alone.

    Args:
        measured: by row count; some were timed.
        width: columns of the packed weight's pieces; 0 for none.
    """
    one_row = [one for one in measured if one.rows == 1]
    more_rows = [one for one in measured if one.rows > 1]
    plain = Choice(
        one_row=_best_plain(one_row), more_rows=_best_plain(more_rows), measured=tuple(measured)
    )
    timed = [one for one in measured if one.seconds]
    packed = packed_name(width)
    if width and _gains(packed, measured):
        chosen = [plain.one_row if one.rows == 1 else plain.more_rows for one in timed]
        otherwise = [one.slowness(name) for one, name in zip(timed, chosen, strict=True)]
        mine = statistics.geometric_mean(one.slowness(packed) for one in timed)
        if mine <= (1 - NOISE) * statistics.geometric_mean(otherwise):
            why = f"{mine:.2f} of the time of {TRUSTED}"
            return replace(plain, one_row=packed, more_rows=packed, width=width, why=why)
    if plain.name != TRUSTED:
        return replace(plain, why="faster beyond noise, and the weight stays unpacked")
    return replace(plain, why=_why_not(measured))


def packed_name(width: int) -> str:
    """The name of the product of a packed weight."""
    return f"oneDNN packed, {width} columns at once"


def _best_plain(measured: Sequence[AtRows]) -> str:
    """The fastest product of a plain weight that satisfies both conditions of this module."""
    found = {
        name: statistics.geometric_mean(
            one.slowness(name) for one in measured if name in one.seconds
        )
        for name in (UNPACKED, TURNED)
        if _gains(name, measured)
    }
    return min(found, key=found.__getitem__, default=TRUSTED)


def _gains(name: str, measured: Sequence[AtRows]) -> bool:
    """Whether ``name`` satisfies both conditions of this module."""
    timed = [one for one in measured if name in one.seconds]
    # written so that NaN fails
    if not timed or not all(
        one.errors.get(name, float("inf")) <= _LAW_MEASURED for one in measured
    ):
        return False
    faster = statistics.geometric_mean(one.slowness(name) for one in timed) <= 1 - NOISE
    return faster and not any(one.is_slower(name) for one in timed)


def _why_not(measured: Sequence[AtRows]) -> str:
    others = {name for one in measured for name in one.errors} - {TRUSTED}
    if not others:
        return "the only product here of such a weight"
    if not any(one.seconds for one in measured):
        return f"every other product errs more than {_LAW_MEASURED:g} times as much"
    return "no other product that keeps the law is faster beyond noise at every row count"


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
        return all(self.relative(rows).get(name, never) <= _LAW_MEASURED for rows in counts)


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


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
