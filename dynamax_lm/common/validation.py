"""Validation of dataclass fields by their annotations, for values of JSON files.

Annotations are types, and the ranges that `Annotated` adds; an invalid value is refused in one
line with its field, the value, and what is expected. Relations between fields are checked by the
record itself.

pydantic would read the same annotations. It is not used: no dependency of this package needs it for
evaluation, its errors have several lines, and certificates and heads mostly check relations between
fields, which need own code in any case. Model arguments are read by `settings` instead: they
are written by users, and refusals suggest the nearest valid word.

Example:
    >>> @dataclass(frozen=True)
    ... class Point:
    ...     share: Annotated[float, within(0, 1)]
    ...     names: Annotated[tuple[str, ...], NOT_EMPTY]
    ...     def __post_init__(self) -> None:
    ...         check_fields(self, "point")
    >>> Point(share=2.0, names=("a",))
    SettingError: point share=2.0: a number in [0, 1] expected
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NamedTuple,
    TypeGuard,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from dynamax_lm.common.errors import SettingError, one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_SHOWN = 80


class Limit(NamedTuple):
    """A constraint that `Annotated` adds to a type.

    Attributes:
        holds: whether a value of the type satisfies it.
        words: the constraint in words, to follow "a number".
    """

    holds: Callable[[Any], bool]
    words: str


def within(low: float, high: float = math.inf, *, ends: bool = True) -> Limit:
    """A range of numbers, with its ends or without them."""
    if high == math.inf:
        return Limit(lambda value: value >= low, f" of at least {low:g}")
    if ends:
        return Limit(lambda value: low <= value <= high, f" in [{low:g}, {high:g}]")
    return Limit(lambda value: low < value < high, f" in ({low:g}, {high:g})")


def one_of(*names: str) -> Limit:
    """One of a few texts."""
    return Limit(names.__contains__, f": {', '.join(names)}")


def matching(pattern: str, words: str) -> Limit:
    """A text that a regular expression matches as a whole."""
    return Limit(lambda value: re.fullmatch(pattern, value) is not None, f": {words}")


NOT_EMPTY = Limit(lambda value: len(value) > 0, ", at least one")
Count = Annotated[int, within(1)]
Natural = Annotated[int, within(0)]
Share = Annotated[float, within(0, 1)]
OpenShare = Annotated[float, within(0, 1, ends=False)]


def check_fields(
    record: DataclassInstance, subject: str, error: type[SettingError] = SettingError
) -> None:
    """Refuse the first field whose value does not satisfy its annotation.

    Raises:
        SettingError: of the class ``error``.
    """
    for name, kind in _kinds(type(record)).items():
        value = getattr(record, name)
        if not _fits(kind, value):
            raise wrong_field(subject, name, value, f"{_words(kind)} expected", error)


def read_fields(
    cls: type[DataclassInstance],
    data: object,
    subject: str,
    error: type[SettingError] = SettingError,
) -> dict[str, Any]:
    """A record's arguments from JSON values: lists as tuples, objects as records.

    Args:
        cls: the record's class; classes of records inside it read themselves by ``from_json``.
        data: of JSON.
        subject: of the error line.
        error: the class of error.

    Raises:
        SettingError: not an object, or one with a missing or unknown field.
    """
    if not isinstance(data, Mapping):
        raise error(f"{subject}: no JSON object")
    kinds = _kinds(cls)
    if lacks := [name for name in kinds if name not in data]:
        raise error(f"{subject} lacks {_listed(lacks)}; write it again")
    if strange := sorted(set(map(str, data)) - set(kinds)):
        raise error(
            f"{subject} has unknown fields {_listed(strange)}; a newer version may have written it"
        )
    return {name: _read(kind, data[name]) for name, kind in kinds.items()}


def wrong_field(
    subject: str,
    name: str,
    value: object,
    why: str,
    error: type[SettingError] = SettingError,
) -> SettingError:
    """The error line for an invalid value."""
    return error(f"{subject} {name}={one_line(repr(value), _SHOWN)}: {why}")


def other_schema(found: object, known: int, renew: str) -> str:
    """Why a file of another version is not read, and how it is brought over.

    Args:
        found: the version of its format, as written there.
        known: the version that is read.
        renew: what to do about a file of an older version.
    """
    why = f"this version reads schema {known}"
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        return why
    if found > known:
        return f"made by a newer version; {why}: update dynamax-lm"
    return f"made by an older version; {why}: {renew}"


def plain(value: Any) -> Any:
    """JSON values of a record and of the records in it."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


@cache
def _kinds(cls: type[DataclassInstance]) -> dict[str, Any]:
    """The type of each field, in order."""
    hints = get_type_hints(cls, include_extras=True)
    return {one.name: hints[one.name] for one in fields(cls)}


def _fits(kind: Any, value: object) -> bool:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(inside[0], value) and all(limit.holds(value) for limit in inside[1:])
    if origin in (Union, UnionType):
        return any(_fits(one, value) for one in inside)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(inside[0], one) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(inside[0], name) and _fits(inside[1], one) for name, one in value.items()
        )
    if kind is float:
        return is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def is_finite(value: object) -> TypeGuard[int | float]:
    """Whether this is a finite number, and not a bool."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _read(kind: Any, value: Any) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _read(inside[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inside[0], one) for one in value)
    reader = getattr(kind, "from_json", None)  # of a record inside this one
    return value if reader is None else reader(value)


_WORDS = {str: "text", bool: "true or false", int: "a whole number", NoneType: "null"}


def _words(kind: Any) -> str:
    """The expected type in words, such as ``a list of whole numbers``."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(inside[0]) + "".join(limit.words for limit in inside[1:])
    if origin in (Union, UnionType):
        return " or ".join(map(_words, inside))
    if origin is tuple:
        return f"a list, each {_words(inside[0])}"
    if origin is Mapping:
        return "an object" if inside[1] is Any else f"an object, each {_words(inside[1])}"
    if kind is float:
        return "a finite number"
    return _WORDS.get(kind, "an object")


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name)[:_SHOWN] for name in names[:4])
