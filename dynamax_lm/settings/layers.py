"""The argument ``layers``: a class from outside that gives layers in place of a checkpoint's."""

from __future__ import annotations

from dynamax_lm.common.errors import error_line
from dynamax_lm.common.extensions import Extension
from dynamax_lm.settings.classes import load_class, read_class
from dynamax_lm.settings.values import refusal

NAME = "layers"
GROUP = "dynamax_lm.layers"
"""Entry points whose classes are layer plans."""

_METHODS = ("costs(self, own)", "layers(self, own, model)")


def read_layers(value: object) -> str | None:
    """A layer plan as written, or ``None`` where none was given; runs no code.

    Raises:
        SettingError: no such class.
    """
    return read_class(NAME, value, (), GROUP)


def find_layers(written: str) -> Extension:
    """The layer plan that a name from :func:`read_layers` denotes, made.

    Raises:
        SettingError: its code cannot be loaded, or is no layer plan.
    """
    outside = load_class(NAME, written, GROUP)
    for method in _METHODS:
        if not callable(getattr(outside.made, method.partition("(")[0], None)):
            raise refusal(NAME, written, f"the class lacks {method}")
    try:
        return outside._replace(made=outside.made())
    except Exception as error:  # any error of the class's code
        why = f"it is made as CLASS(), and here: {error_line(error, 160)}"
        raise refusal(NAME, written, why) from error
