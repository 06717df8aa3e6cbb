"""What the configurations of everything trained on one backbone have in common.

They are ``config.json`` of a folder. A missing, extra or invalid field is refused in one line, so
that a configuration is never misread.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, ClassVar

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.validation import (
    Count,
    check_fields,
    other_schema,
    read_fields,
    within,
    wrong_field,
)

if TYPE_CHECKING:
    from typing import Self

    from dynamax_lm.heads.unembedding_sample import UnembeddingSample

MOST_LAYERS = 10_000
"""More than any decoder has: a larger number is damage, and would be allocated for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfBackbone:
    """The backbone, by its shape and its unembedding, and the file's form.

    Attributes:
        SUBJECT: what a folder has, in error lines, in the plural.
        ARGUMENT: the model argument that names one.
        REMEDY: what to do with another backbone.
        RENEW: what to do about a file of an older version.
        SCHEMA: version of the fields.
        DESCRIPTIVE: fields that can change no number.
        LATER: fields that earlier files lack; they have their defaults there.
        backbone: name of the checkpoint.
        architecture: of the backbone, by ``config.architecture_of``.
        n_layers: the backbone's L.
        width: the backbone's D.
        vocabulary: the backbone's V.
        fingerprint: of the backbone's unembedding, as :mod:`dynamax_lm.heads.fingerprint` has it.
    """

    SUBJECT: ClassVar[str]
    ARGUMENT: ClassVar[str]
    REMEDY: ClassVar[str]
    RENEW: ClassVar[str]
    SCHEMA: ClassVar[int]
    DESCRIPTIVE: ClassVar[tuple[str, ...]]
    LATER: ClassVar[tuple[str, ...]] = ()

    backbone: str
    architecture: str
    n_layers: Annotated[int, within(1, MOST_LAYERS)]
    width: Count
    vocabulary: Count
    fingerprint: str

    @property
    def identity(self) -> str:
        """A digest of all that can change a number."""
        known = asdict(self)
        for name in self.DESCRIPTIVE:
            del known[name]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the text of ``config.json``.

        Raises:
            SettingError: not a JSON object, a missing or extra field, or an invalid value.
        """
        where = f"{cls.SUBJECT} config.json"
        try:
            given = json.loads(text)
        except ValueError as error:
            raise SettingError(f"{where} is not JSON: {error}") from error
        if isinstance(given, dict):
            cls._check_schema(given.get("schema", cls.SCHEMA))
            later = (one for one in fields(cls) if one.name in cls.LATER)
            given = {one.name: one.default for one in later} | given
        return cls(**read_fields(cls, given, where))

    def stored_format(self) -> str:
        """The number format of the tensors' file."""
        return "float32"

    def sample(self) -> UnembeddingSample | None:
        """The recorded weights of the unembedding, if any."""
        return None

    @classmethod
    def _check_schema(cls, schema: object) -> None:
        """Refuse fields of another version."""
        if schema != cls.SCHEMA:
            raise cls._bad("schema", schema, other_schema(schema, cls.SCHEMA, cls.RENEW))

    def _check_kinds(self, schema: int) -> None:
        """Refuse another schema, and values of a wrong kind."""
        self._check_schema(schema)
        check_fields(self, f"{self.SUBJECT} config")

    def _check_rank(self, translator: str, rank: int) -> None:
        """Refuse a rank that a low-rank translator of this width cannot have."""
        if translator == "low_rank" and not 1 <= rank <= self.width:
            raise self._bad("translator_rank", rank, f"lies in 1..{self.width}")

    @classmethod
    def _bad(cls, name: str, value: object, why: str) -> SettingError:
        return wrong_field(f"{cls.SUBJECT} config", name, value, why)
