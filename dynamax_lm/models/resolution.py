"""Settings meet a checkpoint: exits, heads and maps that fit it, before any weights load."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from dynamax_lm.common.tracefile import check_folder
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.models.prompt_maps import ChosenMaps, choose_maps
from dynamax_lm.models.trained import ChosenHeads, choose_heads
from dynamax_lm.settings import ExitSettings, RawSettings


class Resolved(NamedTuple):
    """Settings that fit the checkpoint, and the trained modules that they name, not loaded."""

    settings: ExitSettings
    heads: ChosenHeads | None
    maps: ChosenMaps | None


def resolve(
    raw: RawSettings,
    config: Any,
    costs: DecoderCosts,
    embedded: str | None,
    known_heads: ChosenHeads | None,
    known_maps: ChosenMaps | None,
) -> Resolved:
    """The settings of a checkpoint.

    Args:
        raw: the settings as given.
        config: transformers' configuration of the text decoder.
        costs: of the layers that run.
        embedded: which embedded model the checkpoint is, if any: its heads are a default.
        known_heads: those in use; files of the same name are not located again.
        known_maps: likewise.

    Raises:
        SettingError: a wrong value, or heads or maps of another backbone.
    """
    heads = choose_heads(raw, embedded=embedded, config=config, known=known_heads)
    maps = choose_maps(raw.prompt_maps, config, known_maps)
    settings = raw.resolve(
        n_layers=costs.n_layers,
        architecture=costs,
        heads=None if heads is None else heads.facts,
        prompt_maps=None if maps is None else maps.facts,
    )
    if settings.trace_dir is not None:
        check_folder(Path(settings.trace_dir))
    return Resolved(settings, heads, maps)
