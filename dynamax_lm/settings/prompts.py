"""The arguments ``prompt_exit``, the layer after which prompt tokens exit, and ``prompt_maps``."""

from __future__ import annotations

from dataclasses import dataclass

from dynamax_lm.settings.lossless import LOSSLESS
from dynamax_lm.settings.values import as_integer, is_missing, read_folder, refusal

NAME, MAPS = "prompt_exit", "prompt_maps"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMapsFacts:
    """Facts of prompt maps that settings depend on.

    Attributes:
        name: folder or hub id.
        prompt_exit: the layer whose hidden states they map.
        fingerprint: identifies everything of them that can change a number.
    """

    name: str
    prompt_exit: int
    fingerprint: str


def read_prompt_exit(value: object, mode: str) -> int | None:
    """Layers that prompt tokens but the last run; ``None`` for all.

    Raises:
        SettingError: neither ``none`` nor a whole number of at least 1, or lossless decoding.
    """
    if is_missing(value):
        return None
    number = as_integer(value)
    if number is None or number < 1:
        raise refusal(NAME, value, "give a layer, 1 or more, or none")
    if mode == LOSSLESS:
        why = "mode=lossless gives full depth's answers, which a prompt exit changes; leave it out"
        raise refusal(NAME, value, why)
    return number


def place_prompt_exit(layer: int | None, n_layers: int) -> int | None:
    """The layer in a model of ``n_layers``; ``None`` where prompt tokens run all layers.

    Raises:
        SettingError: the model has no such layer.
    """
    if layer is not None and layer > n_layers:
        why = f"this model has {n_layers} layers; give one of them, or none"
        raise refusal(NAME, layer, why)
    return None if layer == n_layers else layer


def read_prompt_maps(value: object, prompt_exit: int | None) -> str | None:
    """Folder or hub id of prompt maps, or ``None`` for none.

    Raises:
        SettingError: not a path, or no prompt exit.
    """
    name = read_folder(MAPS, value, "./my-maps")
    if name is not None and prompt_exit is None:
        why = "maps are of prompt tokens that exit; give prompt_exit=K too, or leave it out"
        raise refusal(MAPS, name, why)
    return name


def check_prompt_maps(maps: PromptMapsFacts | None, prompt_exit: int | None) -> None:
    """Refuse maps of another prompt exit than the run's.

    Raises:
        SettingError: with both.
    """
    if maps is not None and maps.prompt_exit != prompt_exit:
        own = "none" if prompt_exit is None else prompt_exit
        why = f"these maps are of prompt_exit={maps.prompt_exit}, and the run's is {own}"
        raise refusal(MAPS, maps.name, why)
