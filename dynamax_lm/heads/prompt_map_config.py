"""The configuration of prompt maps: which backbone, prompt exit and groups of layers.

This is ``config.json`` of a folder of prompt maps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.validation import Count, check_fields, one_of, read_fields, wrong_field

SCHEMA = 1
"""Version of the fields below."""

KINDS = ("affine", "low_rank")
"""Kinds of map; both are translators."""

_SUBJECT = "prompt maps config"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMapsConfig:
    """Everything about prompt maps that is not a tensor.

    Attributes:
        SUBJECT: what a folder has, in error lines.
        ARGUMENT: the model argument that names one.
        REMEDY: what to do with another backbone.
        backbone: name of the checkpoint whose states they map.
        architecture: of the backbone, by ``config.architecture_of``.
        n_layers: the backbone's L.
        width: the backbone's D.
        vocabulary: the backbone's V.
        fingerprint: of the backbone's unembedding, as :mod:`dynamax_lm.heads.fingerprint` has it.
        prompt_exit: layers that the mapped tokens ran, 1..L-2.
        group: consecutive layers that share a map, from the bottom.
        translator: ``affine`` or ``low_rank``.
        translator_rank: of ``low_rank``; ignored elsewhere.
        data: description, digest, tokens.
        training: the backbone's digest, the ridge, versions.
        errors: of each skipped layer, on held-out text; rows of the card.
        weights_sha256: of ``model.safetensors``; set when the maps are saved, empty before.
        schema: version of these fields.

    Raises:
        SettingError: an invalid value.
    """

    SUBJECT: ClassVar[str] = "prompt maps"
    ARGUMENT: ClassVar[str] = "prompt_maps"
    REMEDY: ClassVar[str] = "fit maps for it, or use prompt_maps=none"

    backbone: str
    architecture: str
    n_layers: Count
    width: Count
    vocabulary: Count
    fingerprint: str
    prompt_exit: Count
    group: Count
    translator: Annotated[str, one_of(*KINDS)]
    translator_rank: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[Mapping[str, Any], ...] = ()
    weights_sha256: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise _bad("schema", self.schema, f"this version reads schema {SCHEMA}")
        check_fields(self, _SUBJECT)
        if self.prompt_exit > self.n_layers - 2:
            why = f"the first skipped layer needs no map; a prompt exit lies in 1..L-2, L being \
{self.n_layers}"
            raise _bad("prompt_exit", self.prompt_exit, why)
        if self.translator == "low_rank" and not 1 <= self.translator_rank <= self.width:
            raise _bad("translator_rank", self.translator_rank, f"lies in 1..{self.width}")

    @property
    def groups(self) -> list[range]:
        """The layers, from 0, that share a map, group by group.

        The input of the first skipped layer is the hidden state at the exit: it needs none.
        """
        first, end = self.prompt_exit + 1, self.n_layers
        return [range(at, min(at + self.group, end)) for at in range(first, end, self.group)]

    @property
    def identity(self) -> str:
        """A digest of all that can change a number: not of descriptions."""
        known = asdict(self)
        for name in ("backbone", "data", "training", "errors"):
            del known[name]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PromptMapsConfig:
        """Read the text of ``config.json``.

        Raises:
            SettingError: not a JSON object, a missing or extra field, or an invalid value.
        """
        try:
            given = json.loads(text)
        except ValueError as error:
            raise SettingError(f"{_SUBJECT}.json is not JSON: {error}") from error
        return cls(**read_fields(cls, given, f"{_SUBJECT}.json"))


def _bad(name: str, value: object, why: str) -> SettingError:
    return wrong_field(_SUBJECT, name, value, why)
