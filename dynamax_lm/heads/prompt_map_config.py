"""The configuration of prompt maps: which backbone, prompt exit and groups of layers.

This is ``config.json`` of a folder of prompt maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from dynamax_lm.common.validation import Count, one_of
from dynamax_lm.heads.of_backbone import OfBackbone

SCHEMA = 1
"""Version of the fields below."""

KINDS = ("affine", "low_rank")
"""Kinds of map; both are translators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMapsConfig(OfBackbone):
    """Everything about prompt maps that is not a tensor.

    Attributes:
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
    RENEW: ClassVar[str] = "fit them again"
    SCHEMA: ClassVar[int] = SCHEMA
    DESCRIPTIVE: ClassVar[tuple[str, ...]] = ("backbone", "data", "training", "errors")

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
        self._check_kinds(self.schema)
        if self.prompt_exit > self.n_layers - 2:
            why = f"the first skipped layer needs no map; a prompt exit lies in 1..L-2, L being \
{self.n_layers}"
            raise self._bad("prompt_exit", self.prompt_exit, why)
        self._check_rank(self.translator, self.translator_rank)

    @property
    def groups(self) -> list[range]:
        """The layers, from 0, that share a map, group by group.

        The input of the first skipped layer is the hidden state at the exit: it needs none.
        """
        first, end = self.prompt_exit + 1, self.n_layers
        return [range(at, min(at + self.group, end)) for at in range(first, end, self.group)]
