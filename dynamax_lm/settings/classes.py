"""Arguments that name a class: of the package, of a Python file, or of an installed package.

This module parses such names and refuses invalid ones.
"""

from __future__ import annotations

from collections.abc import Collection

from dynamax_lm.common.extensions import Extension, installed, load, read_reference
from dynamax_lm.settings.values import hint, is_missing, refusal

_HOW = "or FILE.py:CLASS for one of your own"


def read_class(argument: str, value: object, built_in: Collection[str], group: str) -> str | None:
    """A name as written, or ``None`` where none was given; runs no code.

    Args:
        argument: its name.
        value: as given.
        built_in: names of the package.
        group: of the entry points.

    Raises:
        SettingError: it names no class, or an installed one that has a name of the package.
    """
    if is_missing(value):
        return None
    word = value.strip() if isinstance(value, str) else ""
    if word in built_in:
        if word in installed(group):
            why = f"an installed package has {group} of that name too; rename or remove it"
            raise refusal(argument, value, why)
        return word
    if word and read_reference(word, group) is not None:
        return word
    names = (*built_in, *sorted(installed(group)))
    one_of = f"choose one of {', '.join(names)}, {_HOW}" if names else "give FILE.py:CLASS"
    raise refusal(argument, value, f"{one_of}{hint(str(value), names)}")


def load_class(argument: str, written: str, group: str) -> Extension:
    """The class from outside that a name from :func:`read_class` denotes; its code is run.

    Raises:
        SettingError: no such name, or code that cannot be loaded.
    """
    reference = read_reference(written, group)
    if reference is None:
        raise refusal(argument, written, f"nothing has that name; give another, {_HOW}")
    return load(argument, reference, group)
