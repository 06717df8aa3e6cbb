"""Files of what was trained on one backbone, from a setting to tensors, in two steps.

Exit heads and prompt maps share them: the configuration is checked before the backbone's weights
load; the tensors load, and the backbone's fingerprint is compared, afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from dynamax_lm.decoders.description import text_config
from dynamax_lm.heads import ExitHeads, HeadsConfig, check_shape
from dynamax_lm.heads.backbone_check import BackboneMatch, check_named
from dynamax_lm.heads.prompt_map_config import PromptMapsConfig
from dynamax_lm.heads.prompt_maps import PromptMapBank
from dynamax_lm.heads.store import find_folder, read_config_as


class Facts(Protocol):
    """What the settings know of them."""

    @property
    def name(self) -> str:
        """A folder, a hub id, or the name of shipped heads."""


class Loaded(Protocol):
    """Tensors with their configuration."""

    @property
    def config(self) -> Any:
        """Of the files that they are from."""


_Config = TypeVar("_Config", HeadsConfig, PromptMapsConfig)
_Facts = TypeVar("_Facts", bound=Facts)
_Bank = TypeVar("_Bank", ExitHeads, PromptMapBank)
_Loaded = TypeVar("_Loaded", bound=Loaded)
_Chosen = TypeVar("_Chosen", bound="Chosen[Any, Any]")


@dataclass(frozen=True, slots=True)
class Chosen(Generic[_Config, _Facts]):
    """Files whose configuration fits the backbone's.

    Attributes:
        folder: of the files.
        config: their configuration.
        facts: for the settings.
    """

    folder: Path
    config: _Config
    facts: _Facts


class Found(NamedTuple, Generic[_Config]):
    """A folder and its configuration."""

    folder: Path
    config: _Config


def find(
    kind: type[_Config],
    name: str,
    backbone: Any,
    known: Chosen[Any, Any] | None,
    *,
    shipped: Path | None = None,
) -> Found[_Config]:
    """The files of a name, by their configuration alone.

    Args:
        kind: of the configuration.
        name: a folder, or a hub id.
        backbone: its transformers configuration.
        known: files found before; under the same name they are not located again, on disk or on
            the hub, but their configuration is read again.
        shipped: a folder that the name stands for, if any.

    Raises:
        SettingError: files that cannot be read, or of another backbone.
    """
    if known is not None and known.facts.name == name:
        folder: Path = known.folder
    else:
        folder = shipped or find_folder(name, kind)
    config = read_config_as(kind, folder)
    check_shape(config, backbone)
    return Found(folder, config)


def on_backbone(bank: _Bank, name: str, model: Any) -> tuple[_Bank, BackboneMatch]:
    """Tensors on the device of a loaded backbone, whose unembedding is compared with theirs.

    Args:
        bank: of the tensors.
        name: as the user gave it.
        model: the loaded backbone.

    Raises:
        SettingError: they are of another backbone.
    """
    unembedding = model.get_output_embeddings().weight
    match = check_named(bank.config, name, text_config(model.config), unembedding)
    return bank.to(unembedding.device), match


def kept_or_loaded(
    loaded: _Loaded | None,
    chosen: _Chosen | None,
    model: Any,
    load: Callable[[_Chosen, Any], _Loaded],
) -> _Loaded | None:
    """What is loaded already if its files are the ``chosen`` ones; else those are loaded.

    Args:
        loaded: under the settings before, if anything.
        chosen: under the settings now; ``None`` for nothing.
        model: the loaded backbone.
        load: reads the tensors of the chosen files.
    """
    if chosen is None:
        return None
    if loaded is not None and loaded.config == chosen.config:
        return loaded
    return load(chosen, model)
