"""Parsing of single values: numbers, booleans, names and paths, from any of lm-eval's interfaces.

lm-eval's command line gives Python literals where it can and strings elsewhere (``none`` stays a
string, ``None`` does not), its string interface gives ``none`` as ``None``, and a YAML or JSON file
has its own types: every form is accepted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real

from dynamax_lm.common.errors import SettingError

_SHOWN = 80
_MANY = 10**9
_TRUE = ("true", "1")
_FALSE = ("false", "0")


def refusal(name: str, value: object, why: str) -> SettingError:
    """A one-line error: ``name=value: why``, with the value truncated to a readable length."""
    text = value if isinstance(value, str) and value and value.isprintable() else repr(value)
    line = " ".join(text.split())
    return SettingError(f"{name}={line[:_SHOWN]}{'...' if len(line) > _SHOWN else ''}: {why}")


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most similar to ``word``, if there is one."""
    matches = get_close_matches(word.lower().replace("-", "_"), sorted(allowed), n=1)
    return matches[0] if matches else None


def hint(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean ...?``, or an empty text."""
    match = nearest(word, allowed)
    return f"; did you mean {match}?" if match else ""


def is_missing(value: object) -> bool:
    """Whether ``value`` means "not given": ``None``, or ``none`` in any case."""
    return value is None or (isinstance(value, str) and value.strip().lower() == "none")


def as_number(value: object) -> float | None:
    """The finite number of a number or its text; ``None`` for anything else, bools included."""
    if isinstance(value, bool):
        return None
    if not isinstance(value, (Real, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_integer(value: object) -> int | None:
    """The whole number of a number or its text (``8``, ``"8"``, ``8.0``), else ``None``.

    Numbers of ten digits and more are refused: they exceed any count in a model.
    """
    number = as_number(value)
    if number is None or not number.is_integer() or abs(number) >= _MANY:
        return None
    return int(number)


def read_name(name: str, value: object, allowed: Iterable[str]) -> str | None:
    """One of ``allowed``, or ``None`` where none was given.

    Raises:
        SettingError: anything else.
    """
    if is_missing(value):
        return None
    names = tuple(allowed)
    if isinstance(value, str) and value.strip() in names:
        return value.strip()
    raise refusal(name, value, f"choose one of {', '.join(names)}{hint(str(value), names)}")


def read_share(name: str, value: object) -> float | None:
    """A number in [0, 1], or ``None`` where none was given.

    Raises:
        SettingError: anything else, infinities, NaN and bools included.
    """
    if is_missing(value):
        return None
    number = as_number(value)
    if number is None:
        raise refusal(name, value, "not a finite number; give one in [0, 1], such as 0.9")
    if not 0.0 <= number <= 1.0:
        percent = f"; for {number:g} % write {number / 100:g}" if 10 <= number <= 100 else ""
        raise refusal(name, value, f"out of range; give a number in [0, 1]{percent}")
    return number


def read_switch(name: str, value: object, default: bool) -> bool:
    """A bool, or ``default`` where none was given.

    Raises:
        SettingError: anything but true and false (or 1 and 0).
    """
    if is_missing(value):
        return default
    if isinstance(value, (bool, int, str)):
        word = str(value).strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    raise refusal(name, value, "give true or false")


def read_folder(name: str, value: object, example: str = "./trace") -> str | None:
    """A path, or ``None`` where none was given.

    Raises:
        SettingError: not a path; numbers too, since lm-eval turns ``007`` into 7 first.
    """
    if is_missing(value):
        return None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and value.strip():
        return value
    raise refusal(name, value, f"give the path of a folder, such as {name}={example}")


def read_count(name: str, value: object) -> int | None:
    """A whole number of at least 1; ``None`` where none was given.

    Raises:
        SettingError: another value.
    """
    if is_missing(value):
        return None
    number = as_integer(value)
    if number is None or number < 1:
        raise refusal(name, value, "give a whole number of at least 1")
    return number
