"""The rule by which the product of a weight is chosen, on measured errors and times alone.

1. *Error bound.* A product is admissible only if its root mean square error is at most twice that
   of ``F.linear``, the trusted one, at every row count.
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
from typing import Any, NamedTuple

TRUSTED = "F.linear"
UNPACKED = "oneDNN"
TURNED = "turned F.linear"
"""The weight on the left, where there are a few rows; for one row it is ``F.linear``."""
LAW = 2.0
"""Largest admissible error, as a multiple of the trusted product's."""
NOISE = 0.05
"""Relative differences in time below this are ignored."""

LAW_MEASURED = 0.9 * LAW
"""The bound on a measured error, which a sample of outputs gives to within some percent."""


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
    if not timed or not all(one.errors.get(name, float("inf")) <= LAW_MEASURED for one in measured):
        return False
    faster = statistics.geometric_mean(one.slowness(name) for one in timed) <= 1 - NOISE
    return faster and not any(one.is_slower(name) for one in timed)


def _why_not(measured: Sequence[AtRows]) -> str:
    others = {name for one in measured for name in one.errors} - {TRUSTED}
    if not others:
        return "the only product here of such a weight"
    if not any(one.seconds for one in measured):
        return f"every other product errs more than {LAW_MEASURED:g} times as much"
    return "no other product that keeps the law is faster beyond noise at every row count"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
