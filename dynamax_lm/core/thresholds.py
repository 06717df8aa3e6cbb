"""Thresholds and exit rules, in plain numbers.

A *cutoff* is the least confidence at which a token exits, computed from a threshold; an exit rule
gives the threshold at each exit and step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import ClassVar

from dynamax_lm.core.measures import MeasureFacts, facts_of

TOLERANCE = Fraction(1, 200)
"""Largest distance of a fraction below a threshold that denotes it: half of 0.01."""


def cutoff_of(threshold: float, confidence: str | MeasureFacts, exits: int) -> float:
    """The least confidence at which a token exits.

    Args:
        threshold: in [0, 1].
        confidence: the measure: its name if it is registered, or its facts.
        exits: number of exits.

    Returns:
        ``threshold``; minus infinity for 0, with which every token exits, and infinity for 1, with
        which none does (a float32 probability can reach 1.0). For a measure that takes only
        the values ``k / n``, as ``patience`` with n = exits - 1 does, it lies half a step below the
        fraction that must be reached.
    """
    if threshold >= 1.0:
        return math.inf
    if threshold <= 0.0:
        return -math.inf
    steps = facts_of(confidence).steps(exits)
    return (agreements_needed(threshold, steps + 1) - 0.5) / steps if steps > 0 else threshold


def agreements_needed(threshold: float, exits: int) -> int:
    """Consecutive agreements that ``patience`` requires, 1..exits - 1.

    The least k with ``k / (exits - 1) >= threshold``, where a fraction that the threshold denotes
    counts as reached: 2/3 is written 0.67 (4 exits), and 0.67 requires 2 agreements, not 3. A
    threshold denotes the fraction at most 0.005 below it, or at most half a step between fractions
    where these are closer than 0.01 (more than 101 exits); any other has its literal meaning.

    Args:
        threshold: in (0, 1).
        exits: at least 2.
    """
    most = exits - 1
    written = Fraction(repr(float(threshold)))  # 0.67 as written, not the binary number near it
    tolerance = min(TOLERANCE, Fraction(1, 2 * most))
    return min(most, max(1, math.ceil((written - tolerance) * most)))


@dataclass(frozen=True)
class ThresholdRule:
    """The threshold at each exit and step; the base of all rules but the plain threshold.

    A rule is a frozen dataclass; its fields after ``threshold`` are numbers with defaults: the
    rule's arguments. It depends on a token's index in its answer, never on the request's maximum
    length, so that a scored continuation has the same thresholds as when it is generated.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Easing(ThresholdRule):
    ...     warm_up: float = 8
    ...     def at(self, exit, step):
    ...         return 1.0 if step < self.warm_up else self.threshold
    >>> rule = Easing(threshold=0.7)
    >>> rule.at(0, step=3), rule.at(0, step=9)
    (1.0, 0.7)

    Attributes:
        threshold: in [0, 1], as the user gave it.
        asks: whether a confidence is computed at exits; if not, no check is billed, and a token
            exits where the threshold is 0.
        takes_threshold: whether the rule uses ``threshold``; if not, it is 0.
        most_exits: the largest number of exits the rule supports; 0 for any number.
    """

    threshold: float = 0.9

    asks: ClassVar[bool] = True
    takes_threshold: ClassVar[bool] = True
    most_exits: ClassVar[int] = 0

    def at(self, exit: int, step: int) -> float:
        """The threshold at an exit, in [0, 1]; with 0 every token exits there, with 1 none does.

        Args:
            exit: which exit, from 0.
            step: how many tokens of the answer precede this one.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class PerExit(ThresholdRule):
    """A threshold for each exit, as CALM's and FREE's calibrations give them.

    Attributes:
        thresholds: in [0, 1], of each exit in order.
    """

    thresholds: tuple[float, ...] = ()

    def at(self, exit: int, step: int) -> float:
        """The exit's own threshold."""
        del step
        return self.thresholds[exit]


@dataclass(frozen=True)
class CalmDecay(ThresholdRule):
    """CALM's decaying threshold (arXiv 2207.07061): higher for early tokens of an answer.

    ``clip(9/10 threshold + 1/10 exp(-temperature step / length), 0, 1)``. CALM's N is the longest
    answer of the task; here it is an argument, so that generation and scoring use the same one.

    Attributes:
        temperature: tau, at least 0; with 0 the threshold is constant.
        length: N, tokens, above 0.
    """

    temperature: float = 4.0
    length: float = 256.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature:g} is at least 0")
        if self.length <= 0:
            raise ValueError(f"length={self.length:g} is above 0")

    def at(self, exit: int, step: int) -> float:
        """The same at every exit, decreasing with the step."""
        del exit
        bonus = math.exp(-self.temperature * step / self.length)
        return min(1.0, max(0.0, 0.9 * self.threshold + 0.1 * bonus))


@dataclass(frozen=True)
class FixedDepth(ThresholdRule):
    """Every token exits at the one exit; no confidence is computed."""

    asks: ClassVar[bool] = False
    takes_threshold: ClassVar[bool] = False
    most_exits: ClassVar[int] = 1

    def at(self, exit: int, step: int) -> float:
        """0: every token exits."""
        del exit, step
        return 0.0


PLAIN = "threshold"
"""The rule of one threshold for all exits, or of a list with one for each."""

BUILT_IN: dict[str, type[ThresholdRule]] = {"calm_decay": CalmDecay, "fixed_depth": FixedDepth}
"""The named rules of the package."""

_RULES: dict[str, type[ThresholdRule]] = dict(BUILT_IN)


def register_rule(name: str, rule: type[ThresholdRule]) -> None:
    """Register a rule by ``name``.

    Raises:
        ValueError: the name is taken.
    """
    if name == PLAIN or _RULES.setdefault(name, rule) is not rule:
        raise ValueError(f"there is an exit rule {name} already")


def rule_class(name: str) -> type[ThresholdRule]:
    """A registered rule.

    Raises:
        ValueError: no such rule.
    """
    if name not in _RULES:
        raise ValueError(f"exit_rule={name!r} is none of {PLAIN}, {', '.join(_RULES)}")
    return _RULES[name]


def make_rule(
    name: str, threshold: float | Sequence[float], arguments: Mapping[str, float]
) -> ThresholdRule | None:
    """The rule of some settings; ``None`` for one threshold at every exit and step.

    Args:
        name: ``threshold``, or the name of a registered rule.
        threshold: in [0, 1]; under ``threshold`` also one for each exit.
        arguments: the rule's, by name.

    Raises:
        ValueError: no such rule, or arguments that it does not take.
    """
    if name == PLAIN:
        if isinstance(threshold, (int, float)):
            return None
        return PerExit(threshold=0.0, thresholds=tuple(threshold))
    rule = rule_class(name)
    known = [field.name for field in fields(rule) if field.name != "threshold"]
    if strangers := [one for one in arguments if one not in known]:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ValueError(f"{strangers[0]} is no argument of {name}; {takes}")
    if not isinstance(threshold, (int, float)):
        raise ValueError(f"{name} takes one threshold, not one for each exit")
    return rule(threshold=float(threshold), **arguments)
