"""The ``hf`` model's arguments: those that exits refuse, and those that can change a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders import checkpoint
from dynamax_lm.decoders.cpu.products import can_pack
from dynamax_lm.harness.hf_model import hf_parameters
from dynamax_lm.settings import (
    CHANGE_NO_NUMBER,
    FROM_PRETRAINED_NAMES,
    OUR_NAMES,
    refuse_pickled_weights,
    refuse_unknown,
)

_DEFAULTS = {"attn_implementation": "sdpa", "subfolder": ""}
"""Defaults of arguments of ``from_pretrained``."""

SAID_ELSEWHERE = frozenset({"dtype", "use_safetensors", "trust_remote_code"})
_UNFIT = {
    "tp_plan": "tensor parallelism cuts the projections that exits read; use parallelize=True",
    "quantization_config": "the hf model passes the checkpoint's own, and takes no second one",
    "autogptq": "its weights are not read from plain safetensors modules; leave it out",
}


def refuse_arguments(given: Mapping[str, Any]) -> None:
    """Refuse what no model with exits can take, before anything loads.

    Args:
        given: all arguments but ``pretrained``.

    Raises:
        SettingError: naming the argument, its value and the fix.
    """
    refuse_unknown(given, set(hf_parameters()) | FROM_PRETRAINED_NAMES | OUR_NAMES)
    refuse_pickled_weights(given)
    for name, why in _UNFIT.items():
        if given.get(name):
            raise SettingError(f"{name}={given[name]!r} cannot be used with early exits: {why}")
    rows = str(given.get("batch_size", 1))
    if rows.lstrip("-").isdigit() and int(rows) < 1:
        raise SettingError(f"batch_size={rows}: at least 1, or auto")
    if given.get("backend", "default") not in {"default", "causal"}:
        raise SettingError(f"backend={given['backend']!r}: only causal models have exits")
    checkpoint.check_attention(given.get("attn_implementation"))


def arguments_that_count(given: Mapping[str, Any]) -> dict[str, str]:
    """The ``hf`` model's arguments that can change a number and are not at their default."""
    defaults = {name: str(one.default) for name, one in hf_parameters().items()} | _DEFAULTS
    return {
        name: str(value)
        for name, value in given.items()
        if name not in CHANGE_NO_NUMBER and value is not None and str(value) != defaults.get(name)
    }


def check_packing(pretrained: Any, given: Mapping[str, Any]) -> None:
    """Refuse ``products=packed`` where no weight would be packed."""
    why = ""
    device = given.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    if torch.device(str(device)).type != "cpu":
        why = f"weights are arranged on a CPU only, and this run is on {device}"
    elif pretrained is not None and not isinstance(pretrained, str):
        why = "a model that is handed in stays as it is"
    elif given.get("mixed_precision_dtype") is not None:
        why = "mixed precision takes the plain weights"
    elif not can_pack(torch.empty(0)):
        why = "this build of torch lacks oneDNN's operators"
    if why:
        raise SettingError(f"products=packed: {why}; omit it")
