"""What a confidence is compared with, in plain numbers.

Owns the meaning of a threshold. It does not know models, tensors or how a confidence is computed.
"""

from __future__ import annotations

import math
from fractions import Fraction

from dynamax_lm.core.measures import facts_of

TOLERANCE = Fraction(1, 200)
"""How far a fraction may lie below a threshold that names it: half a unit of the second decimal."""


def bar_of(threshold: float, confidence: str, exits: int) -> float:
    """The least confidence at which a token leaves.

    Args:
        threshold: in [0, 1].
        confidence: name of the measure.
        exits: how many exits there are.

    Returns:
        ``threshold``; minus infinity for 0, which always leaves, and infinity for 1, which never
        does (a float32 probability can reach 1.0). For a measure that takes only the values
        ``k / n``, as ``patience`` with n = exits - 1 does, it lies half a step below the fraction
        that must be reached.
    """
    if threshold >= 1.0:
        return math.inf
    if threshold <= 0.0:
        return -math.inf
    steps = facts_of(confidence).steps(exits)
    return (agreements_needed(threshold, steps + 1) - 0.5) / steps if steps > 0 else threshold


def agreements_needed(threshold: float, exits: int) -> int:
    """How many agreements in a row ``patience`` asks for, 1..exits - 1.

    The fewest k with ``k / (exits - 1) >= threshold``, where a fraction that the threshold names
    counts as reached: 2/3 is written 0.67 (4 exits), and 0.67 asks for 2 agreements, not 3. A
    threshold names the fraction at most 0.005 below it, or half a step between fractions where
    these lie closer than 0.01 (more than 101 exits); any other keeps its literal meaning.

    Args:
        threshold: in (0, 1).
        exits: at least 2.
    """
    most = exits - 1
    written = Fraction(repr(threshold))  # 0.67 as it was written, not the binary number next to it
    tolerance = min(TOLERANCE, Fraction(1, 2 * most))
    return min(most, max(1, math.ceil((written - tolerance) * most)))
