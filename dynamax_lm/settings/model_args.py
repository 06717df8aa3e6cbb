"""``--model_args`` of the commands that evaluate no task, as text."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings.names import refuse_pickled_weights, refuse_unknown

MODEL_ARGS = (
    "pretrained",
    "tokenizer",
    "dtype",
    "revision",
    "subfolder",
    "trust_remote_code",
    "attn_implementation",
    "parallelize",
    "cache_dir",
    "token",
    "use_safetensors",
)
"""Accepted names in ``--model_args``: those that determine the weights, not the exits."""

_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


def read_model_args(text: str, allowed: Collection[str] = MODEL_ARGS) -> dict[str, Any]:
    """``name=value`` pairs between commas, as on lm-eval's command line.

    Raises:
        SettingError: a piece that is not such a pair, a name that is not accepted here, or weights
            that are no safetensors.
    """
    given: dict[str, Any] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = piece.partition("=")
        if not equals or not re.fullmatch(r"\w+", name):
            raise SettingError(f"--model_args: {piece!r} is not name=value")
        given[name] = _WORDS.get(value.lower(), value)
    refuse_unknown(given, allowed)
    refuse_pickled_weights(given)
    return given
