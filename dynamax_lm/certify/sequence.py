"""Fixed-sequence testing: from the safest threshold down, until one fails.

Owns the order of tests and what it returns. Angelopoulos et al., "Learn then Test" (arXiv
2110.01052): if the order is fixed beforehand and testing stops at the first failure,
every test may be made at the full ``delta``, and with probability ``1 - delta`` none of the
thresholds that passed has a risk above the asked one. It does not know how thresholds are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from dynamax_lm.errors import SettingError


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
        thresholds: strictly falling, chosen without looking at the documents.
        test: what tests one.
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
