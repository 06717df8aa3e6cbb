"""Findings of a verification: counts, mismatches, and unchecked values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamax_lm.common.validation import is_finite

_RELATIVE, _ABSOLUTE = 1e-9, 1e-12
_SHOWN = 120


@dataclass
class Verification:
    """Findings, added to as runs are verified.

    Attributes:
        checked: number of values recomputed.
        mismatches: one line for each value that does not match, naming file and value.
        left: by reason, the places of values that the files do not determine.
    """

    checked: int = 0
    mismatches: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unchecked(self) -> list[str]:
        """One line for each reason why values were not checked."""
        return [
            f"{where[0]}" + (f" and {len(where) - 1} more" if where[1:] else "") + f": {why}"
            for why, where in self.left.items()
        ]

    def compare(self, where: str, published: Any, again: Any) -> None:
        """Counts one value, and adds a mismatch if the two differ."""
        self.checked += 1
        if not same(published, again):
            self.mismatches.append(
                f"{where}: published {_short(published)}, recomputed {_short(again)}"
            )

    def compare_all(self, where: str, published: Any, again: Any) -> None:
        """Compares every nested value of ``again`` with the published one."""
        if isinstance(again, Mapping):
            there = published if isinstance(published, Mapping) else {}
            for name, value in again.items():
                if name not in there:
                    self.refuse(f"{where} {name}: missing, recomputed {_short(value)}")
                else:
                    self.compare_all(f"{where} {name}", there[name], value)
        else:
            self.compare(where, published, again)

    def compare_exactly(self, where: str, published: Any, again: Any) -> None:
        """The same, and no other value may be published."""
        self.compare_all(where, published, again)
        if isinstance(again, Mapping) and isinstance(published, Mapping):
            for name in published.keys() - again.keys():
                self.compare(f"{where} {name}", published[name], None)

    def refuse(self, line: str) -> None:
        """Adds a mismatch for an impossible or unreadable value."""
        self.checked += 1
        if line not in self.mismatches:
            self.mismatches.append(line)

    def require(self, right: bool, line: str) -> None:
        """Counts one condition, and adds a mismatch if it does not hold."""
        self.checked += 1
        if not right and line not in self.mismatches:
            self.mismatches.append(line)

    def leave(self, where: str, why: str) -> None:
        """Adds an unchecked value."""
        places = self.left.setdefault(why, [])
        if where not in places:
            places.append(where)


def same(published: Any, again: Any) -> bool:
    """Whether two values are equal: numbers up to rounding, sequences item by item."""
    if isinstance(published, bool) != isinstance(again, bool):
        return False
    if is_finite(published) and is_finite(again):
        if isinstance(published, int) and isinstance(again, int):
            return published == again
        return math.isclose(published, again, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    if isinstance(published, float) and isinstance(again, float):
        return published == again or (math.isnan(published) and math.isnan(again))
    if isinstance(published, (list, tuple)) and isinstance(again, (list, tuple)):
        return len(published) == len(again) and all(map(same, published, again))
    return bool(published == again)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
