"""Base of a certificate's records, which have a strict JSON format, and their error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.validation import check_fields, plain, read_fields, wrong_field

if TYPE_CHECKING:
    from typing import Self

_SUBJECT = "certificate:"


class CertificateError(SettingError):
    """An incomplete or inconsistent certificate."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A frozen record whose JSON format has exactly its fields."""

    def __post_init__(self) -> None:
        check_fields(self, _SUBJECT, CertificateError)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = plain(self)
        return values

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The record that `to_json` wrote.

        Raises:
            CertificateError: a field is missing, unknown, of another type, or contradicts others.
        """
        return cls(**read_fields(cls, data, f"{_SUBJECT} {cls.__name__}", CertificateError))


def check(right: bool, name: str, value: object, why: str) -> None:
    """Refuses a value.

    Raises:
        CertificateError: unless ``right``.
    """
    if not right:
        raise wrong_field(_SUBJECT, name, value, why, CertificateError)
