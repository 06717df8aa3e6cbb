"""The exit rule: one threshold, one for each exit, a named rule, or one from outside.

This module reads ``threshold``, ``exit_rule`` and ``exit_rule_args``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dynamax_lm.core.thresholds import (
    BUILT_IN,
    PLAIN,
    ThresholdRule,
    make_rule,
    register_rule,
    rule_class,
)
from dynamax_lm.settings.classes import load_class, read_class
from dynamax_lm.settings.heads import CERTIFIED
from dynamax_lm.settings.values import as_number, is_missing, read_share, refusal

NAME = "exit_rule"
ARGUMENTS = "exit_rule_args"
GROUP = "dynamax_lm.exit_rule"
"""Entry points whose classes are exit rules."""

Threshold = float | tuple[float, ...]
"""One threshold, or one for each exit."""

_LISTED = "give a threshold for each exit as [0.9,0.8,0.7] or 0.9+0.8+0.7"


def read_threshold(value: object) -> Threshold | str | None:
    """A threshold, several, ``certified``, or ``None`` where none was given.

    Raises:
        SettingError: none of these.
    """
    if isinstance(value, str) and value.strip() == CERTIFIED:
        return CERTIFIED
    if is_missing(value) or as_number(value) is not None:
        return read_share("threshold", value)
    pieces: tuple[object, ...]
    if isinstance(value, (list, tuple)):
        pieces = tuple(value)
    elif isinstance(value, str) and re.search(r"^\s*[\[(]|\+", value):
        word = value.strip()
        bracketed = word[:1] + word[-1:] in {"[]", "()"}
        pieces = tuple(re.split(r"(?<![eE])\+|,", word[1:-1]) if bracketed else word.split("+"))
        if bracketed and not str(pieces[-1]).strip():  # of an empty list, or of a tuple of one
            pieces = pieces[:-1]
    else:
        return read_share("threshold", value)
    thresholds = tuple(as_number(piece) for piece in pieces)
    if not thresholds or not all(one is not None and 0.0 <= one <= 1.0 for one in thresholds):
        raise refusal("threshold", value, f"each is a number in [0, 1]; {_LISTED}")
    return tuple(one for one in thresholds if one is not None)


def read_rule(value: object) -> str | None:
    """A rule as written, or ``None`` where none was given; runs no code.

    Raises:
        SettingError: no such rule.
    """
    return read_class(NAME, value, (PLAIN, *BUILT_IN), GROUP)


def read_rule_arguments(value: object) -> tuple[tuple[str, float], ...]:
    """Arguments by name, ascending: ``temperature:4+length:128``, or a mapping.

    Raises:
        SettingError: not names and numbers.
    """
    if is_missing(value):
        return ()
    pairs: list[tuple[object, object]] = []
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, str):
        for piece in re.split(r"(?<![eE])\+", value.strip()):
            name, _, number = piece.partition(":")
            pairs.append((name.strip(), number))
    numbers = {str(name): as_number(number) for name, number in pairs}
    if not numbers or len(numbers) < len(pairs):
        raise refusal(ARGUMENTS, value, "give names and numbers once each, as temperature:4")
    found = {name: number for name, number in numbers.items() if number is not None}
    if len(found) < len(numbers) or not all(re.fullmatch(r"\w+", name) for name in found):
        raise refusal(
            ARGUMENTS, value, "give names and finite numbers, as temperature:4+length:256"
        )
    return tuple(sorted(found.items()))


def find_rule(written: str) -> str:
    """The name of a rule from :func:`read_rule`, registered if it is from outside.

    Raises:
        SettingError: its code cannot be loaded, or is not a rule.
    """
    if written in {PLAIN, *BUILT_IN}:
        return written
    name, made = load_class(NAME, written, GROUP)
    if not (issubclass(made, ThresholdRule) and "__dataclass_params__" in vars(made)):
        raise refusal(NAME, written, "the class is no dataclass over core.thresholds.ThresholdRule")
    if made.at is ThresholdRule.at:
        raise refusal(NAME, written, "the class lacks at(self, exit, step), its thresholds")
    try:
        rule_class(name)
    except ValueError:
        register_rule(name, made)
    return name


def check_rule(
    name: str,
    threshold: Threshold,
    arguments: tuple[tuple[str, float], ...],
    exits: tuple[int, ...],
) -> None:
    """Refuse a rule that does not fit these exits; at full depth none is refused.

    Raises:
        SettingError: wrong arguments, or another number of exits than the rule needs.
    """
    if name == PLAIN:
        if arguments:
            raise refusal(ARGUMENTS, dict(arguments), f"exit_rule={PLAIN} takes none")
        if isinstance(threshold, tuple) and exits and len(threshold) != len(exits):
            why = (
                f"{len(threshold)} for {len(exits)} exits {list(exits)}; give one finite number in "
                f"[0, 1], or one for each exit as [0.9,0.8,0.7] or 0.9+0.8+0.7"
            )
            raise refusal("threshold", list(threshold), why)
        return
    if isinstance(threshold, tuple):
        raise refusal("threshold", list(threshold), f"exit_rule={name} takes one number")
    try:
        rule = make_rule(name, threshold, dict(arguments))
    except (TypeError, ValueError) as error:
        raise refusal(ARGUMENTS, dict(arguments), f"{error}") from None
    assert rule is not None, "a named rule has a class"
    if exits and rule.most_exits and len(exits) > rule.most_exits:
        why = f"it takes {rule.most_exits}; exit_layers is {list(exits)}"
        raise refusal(NAME, name, why)
    for exit in range(len(exits)):
        try:
            at = rule.at(exit, 0)
        except Exception as error:  # a stranger's code
            why = f"its threshold at exit {exit} raises {type(error).__name__}: {error}"
            raise refusal(NAME, name, why) from None
        if not isinstance(at, (int, float)) or not 0.0 <= at <= 1.0:
            raise refusal(NAME, name, f"its threshold at exit {exit} is {at!r}, not in [0, 1]")
