"""Fixed-sequence testing: from the safest threshold down, until one fails.

Angelopoulos et al., "Learn then Test" (arXiv 2110.01052): if the order is fixed beforehand and
testing stops at the first failure, every test may be made at the full ``delta``, and with
probability ``1 - delta`` none of the thresholds that passed has a risk above the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from dynamax_lm.common.errors import SettingError

DEFAULT_GRID = (
    *(0.999, 0.998, 0.995),
    *(0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9, 0.875, 0.85, 0.825),
    *(0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.1, 0.0),
)
"""Thresholds, safest first. A longer grid costs runs, but does not weaken the guarantee."""


class Tested(Protocol):
    """The outcome of one test."""

    @property
    def p_value(self) -> float:
        """Of the hypothesis that the risk is too high."""


Outcome = TypeVar("Outcome", bound=Tested)


def fixed_sequence(
    thresholds: Sequence[float], test: Callable[[float], Outcome], delta: float
) -> Iterator[Outcome]:
    """Tests thresholds until one fails, and yields every outcome, the failed one last.

    Args:
        thresholds: strictly decreasing, chosen independently of the documents.
        test: tests one threshold.
        delta: in (0, 1).
    """
    for threshold in thresholds:
        outcome = test(threshold)
        yield outcome
        if not outcome.p_value <= delta:
            return


def last_passed(outcomes: Sequence[Outcome], delta: float) -> Outcome | None:
    """The last outcome that passed, which is the one before the failed one."""
    passed = [outcome for outcome in outcomes if outcome.p_value <= delta]
    return passed[-1] if passed else None


def check_grid(thresholds: Sequence[float]) -> tuple[float, ...]:
    """The grid, safest first.

    Raises:
        SettingError: no threshold, one outside [0, 1], or one given twice.
    """
    ordered = tuple(sorted(thresholds, reverse=True))
    if not ordered:
        raise SettingError("thresholds: none given; give numbers in [0, 1], such as 0.99,0.95,0.9")
    for threshold in ordered:
        if not 0 <= threshold <= 1:
            raise SettingError(f"thresholds: {threshold!r} is not a number in [0, 1]")
    if len(set(ordered)) < len(ordered):
        raise SettingError("thresholds: one is given twice; give each once")
    return ordered
