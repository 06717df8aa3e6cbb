"""The argument ``prompt_exit``: the layer after which prompt tokens exit."""

from __future__ import annotations

from dynamax_lm.settings.lossless import LOSSLESS
from dynamax_lm.settings.values import as_integer, is_missing, refusal

NAME = "prompt_exit"


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
