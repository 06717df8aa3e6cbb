"""Records with a strict JSON form, from which a certificate is made.

Owns the form and the checks of single values. It does not know what the records mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from dynamax_lm.common.errors import SettingError

if TYPE_CHECKING:
    from typing_extensions import Self


class CertificateError(SettingError):
    """A certificate that is not whole, or contradicts itself."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A frozen record with a JSON form that has exactly its fields."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The record that `to_json` wrote.

        Raises:
            CertificateError: a field is missing, unknown, of another type, or contradicts others.
        """
        names = [f.name for f in fields(cls)]
        if not isinstance(data, Mapping):
            raise CertificateError(f"certificate: {cls.__name__} is not a JSON object")
        for name in sorted(set(names) ^ set(map(str, data))):
            fault = "lacks" if name in names else "has the unknown"
            raise CertificateError(f"certificate: {cls.__name__} {fault} field {name!r}")
        return cls(**{name: cls.read(name, data[name]) for name in names})

    @classmethod
    def read(cls, name: str, value: Any) -> Any:
        """One field's value from JSON; tuples arrive as lists."""
        del name
        return value


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """A list of JSON as a tuple."""
    check(isinstance(value, (list, tuple)), name, value, "not a list")
    return tuple(value)


def check(right: bool, name: str, value: object, why: str) -> None:
    """Refuses a value.

    Raises:
        CertificateError: unless ``right``.
    """
    if not right:
        raise CertificateError(f"certificate: {name}={' '.join(repr(value).split())[:80]}: {why}")


def check_texts(record: Record, *names: str) -> None:
    """Refuses fields that are no text."""
    for name in names:
        value = getattr(record, name)
        check(isinstance(value, str), name, value, "not a string")


def check_texts_or_none(record: Record, *names: str) -> None:
    """Refuses fields that are neither text nor ``None``."""
    for name in names:
        value = getattr(record, name)
        check(value is None or isinstance(value, str), name, value, "neither a string nor null")


def check_digests(name: str, value: object) -> None:
    """Refuses what is not a mapping of names to texts."""
    known = isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(one, str) for key, one in value.items()
    )
    check(known, name, value, "not an object of strings")


def check_share(name: str, value: object, *, closed: bool = False) -> None:
    """Refuses what is no number in (0, 1), or in [0, 1] if ``closed``."""
    inside = finite(value) and (0 <= value <= 1 if closed else 0 < value < 1)  # type: ignore[operator]
    check(inside, name, value, f"not a number in {'[0, 1]' if closed else '(0, 1)'}")


def finite(value: object) -> bool:
    """Whether this is a finite number; no bool."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def whole(value: object, least: int = 1) -> bool:
    """Whether this is a whole number of at least ``least``; no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
