"""What lm-eval's ``hf`` model is given: a checkpoint and its options, without our arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from dynamax_lm.decoders import checkpoint
from dynamax_lm.decoders.loading import keep_own_head
from dynamax_lm.settings import OUR_NAMES

_UNNAMED_DEVICE = "cuda:0"
"""What lm-eval's command line passes if no ``--device`` is given, on machines without one too."""


class HfArguments(NamedTuple):
    """Arguments of the ``hf`` model.

    Attributes:
        pretrained: a hub id, a folder, or a loaded model.
        shown_name: the checkpoint's name as the user gave it, which results have.
        options: all others.
    """

    pretrained: Any
    shown_name: str
    options: dict[str, Any]


def without_absent_gpu(given: dict[str, Any]) -> None:
    """Leave the device of ``given`` open where only lm-eval's command line named a GPU."""
    if given.get("device") == _UNNAMED_DEVICE and not torch.cuda.is_available():
        given["device"] = None


def hf_arguments(
    pretrained: Any, given: Mapping[str, Any], architecture: checkpoint.Architecture
) -> HfArguments:
    """The arguments of the ``hf`` model.

    Args:
        pretrained: as the user gave it; ``None`` for the architecture's default.
        given: all other arguments, ours among them.
        architecture: of the model.

    Raises:
        SettingError: no checkpoint is given, and the architecture has no default.
    """
    options = {name: value for name, value in given.items() if name not in OUR_NAMES}
    if given.get("device") is None and not torch.cuda.is_available():
        options["device"] = "cpu"  # the hf model's own default is a GPU
    shown = checkpoint.given_or_default(pretrained, architecture)
    if not isinstance(shown, str):
        keep_own_head(shown)
        return HfArguments(shown, shown.config.name_or_path, options)
    if dtype := checkpoint.default_dtype(shown, architecture):
        options.setdefault("dtype", dtype)
    name = checkpoint.resolve_name(shown, architecture)
    if not given.get("gguf_file") and not given.get("gptqmodel"):
        options["use_safetensors"] = True
    return HfArguments(name, shown, options)
