"""The argument ``confidence``: a measure of the package, a Python file or an installed package."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from dynamax_lm.core.measures import BUILT_IN, Check, MeasureFacts, facts_of, register
from dynamax_lm.settings.classes import load_class, read_class
from dynamax_lm.settings.values import refusal

NAME = "confidence"
GROUP = "dynamax_lm.confidence"
"""Entry points whose classes are measures."""


def read_confidence(value: object) -> str | None:
    """A measure as written, or ``None`` where none was given; runs no code.

    Raises:
        SettingError: no such measure.
    """
    return read_class(NAME, value, BUILT_IN, GROUP)


def find_measure(written: str) -> MeasureFacts:
    """The measure of a name from :func:`read_confidence`, registered if it is from outside.

    Raises:
        SettingError: its code cannot be loaded, or is not a measure.
    """
    if written in BUILT_IN:
        return facts_of(written)
    name, made = load_class(NAME, written, GROUP)
    facts = getattr(made, "facts", None)
    if not isinstance(facts, MeasureFacts):
        raise refusal(NAME, written, "the class lacks facts = MeasureFacts(reads='logits', ...)")
    if why := _fault(made, facts):
        raise refusal(NAME, written, why)
    try:
        return facts_of(name)
    except ValueError:
        own = replace(facts, name=name, outside=True)
        register(own, made)
        return own


def _fault(made: type[Any], facts: MeasureFacts) -> str | None:
    """Why a class from outside is not a measure, or ``None``."""
    ask = getattr(made, "ask", None)
    if not callable(ask) or ask.__module__.startswith("dynamax_lm.core"):
        return "the class lacks ask(self, view), its confidences"
    if facts.name in BUILT_IN:
        return f"its facts have the name {facts.name} of a built-in measure; leave the name out"
    if facts.reads == "heads":
        return "reads='heads' is for the heads of the package; give reads='logits' or 'hidden'"
    try:
        inspect.signature(made).bind(tokens=1, exits=1)
    except (TypeError, ValueError) as error:
        return f"the class is made as CLASS(tokens=N, exits=E), and here: {error}"
    try:
        flops = facts.flops(Check(exit=0, width=1, vocabulary=1))
    except Exception as error:  # a stranger's code
        return f"its flops raise {type(error).__name__}: {error}"
    if type(flops) is not int or flops < 0:
        return f"its FLOPs are {flops!r}; give a count of one check, such as 6 * check.width"
    return None


def check_exits(facts: MeasureFacts, exits: tuple[int, ...]) -> None:
    """Refuse fewer exits than a measure needs.

    Raises:
        SettingError: too few.
    """
    if len(exits) < facts.least_exits:
        least = "two" if facts.least_exits == 2 else facts.least_exits
        why = f"it needs at least {least} exits"
        raise refusal(NAME, facts.name, f"{why}; exit_layers is {list(exits)}")
