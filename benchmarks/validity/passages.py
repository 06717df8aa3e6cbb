"""False claims of a report's comparisons where several questions are about one passage.

    python -m benchmarks.validity.passages

Gaps between two settings have mean 0; those of a passage are correlated. Each claim is false.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import numpy as np

from dynamax_lm.common.intervals import LEVEL, SHARE
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.passages import Units
from dynamax_lm.report.difference import difference

SIDE = (1 - LEVEL) / 2
CASES = ((15, 20, 0.1), (15, 20, 0.3), (50, 20, 0.3), (100, 5, 0.3), (300, 3, 0.1))
"""Passages, questions about each, and the correlation of their gaps."""


class Rates(NamedTuple):
    """Shares of draws in which a setting is claimed to be better, and worse."""

    higher: float
    lower: float


def false_claims(
    passages: int,
    questions: int,
    correlation: float,
    draws: int,
    *,
    by_passage: bool,
    uneven: bool = False,
) -> Rates:
    """How often a comparison claims a difference that there is not.

    Args:
        passages: drawn independently.
        questions: about each, on average.
        correlation: of the gaps of two questions about one passage, in [0, 1].
        draws: how many times.
        by_passage: whether passages are the units, as in reports; else documents.
        uneven: whether some passages have three times as many questions as others.
    """
    rng = np.random.default_rng([passages, questions, int(100 * correlation), uneven])
    sizes = np.full(passages, questions)
    if uneven:
        sizes = np.where(np.arange(passages) % 2, questions // 2, questions + questions // 2)
    unit_of = np.repeat(np.arange(passages), sizes)
    units = Units(tuple(unit_of.tolist()), tuple(sizes.tolist())) if by_passage else None
    said = np.zeros(2)
    for _ in range(draws):
        gaps = rng.integers(-1, 2, passages)[unit_of]
        own = rng.random(len(unit_of)) >= np.sqrt(correlation)
        gaps = np.where(own, rng.integers(-1, 2, len(unit_of)), gaps)
        first, second = np.maximum(gaps, 0), np.maximum(-gaps, 0)
        found = difference(first.tolist(), second.tolist(), SHARE, units=units)
        said += found.p_higher <= SIDE, found.p_lower <= SIDE
    return Rates(*(said / draws).tolist())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validity.passages", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--draws", type=int, default=1000, help="of each case")
    draws = parser.parse_args().draws
    head = ["passages x questions, correlation", "by document", "by passage", "uneven, by passage"]
    rows = []
    for case in CASES:
        found = [
            false_claims(*case, draws, by_passage=by_passage, uneven=uneven)
            for by_passage, uneven in ((False, False), (True, False), (True, True))
        ]
        cells = [f"{100 * one.higher:.1f} / {100 * one.lower:.1f} %" for one in found]
        rows.append([f"{case[0]} x {case[1]}, {case[2]}", *cells])
    sys.stdout.write(markdown_table(head, rows) + "\n")


if __name__ == "__main__":
    main()
