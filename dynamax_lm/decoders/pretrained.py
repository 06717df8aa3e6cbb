"""A frozen checkpoint of transformers, loaded without lm-eval.

It turns ``--model`` and model arguments into a model of transformers for the commands that evaluate
no task (head training, the speed benchmark).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from dynamax_lm.common.errors import SettingError, first_line
from dynamax_lm.decoders.checkpoint import (
    BY_MODEL,
    FAMILY,
    HUB_OPTIONS,
    Architecture,
    check_attention,
    check_config,
    default_dtype,
    given_or_default,
    resolve_name,
    unreachable,
)
from dynamax_lm.decoders.cpu.kernel_advice import no_kernel_advice
from dynamax_lm.decoders.loading import WholeModel
from dynamax_lm.decoders.tokenizer_file import check_token_ids


class Pretrained(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        model: transformers' causal language model, or its multimodal wrapper of one.
        tokenizer: its tokenizer; ``None`` unless requested.
        architecture: of the model.
        name: the hub id or folder, as given.
    """

    model: Any
    tokenizer: Any
    architecture: Architecture
    name: str


def load_pretrained(
    model: str, given: Mapping[str, Any], device: str | None, *, tokenizer: bool = True
) -> Pretrained:
    """Load a checkpoint from safetensors.

    Args:
        model: ``dynamax-mamba`` or ``dynamax-mistral``.
        given: model arguments by name; weights are read from safetensors whatever they say.
        device: where to put it; ``None`` for a GPU if there is one.
        tokenizer: whether its tokenizer is needed.

    Raises:
        SettingError: a wrong name or value, or a checkpoint that cannot be found or run.
    """
    from transformers import AutoConfig, AutoTokenizer

    from dynamax_lm.decoders.check import check_layers
    from dynamax_lm.decoders.family_stack import FamilyStack

    no_kernel_advice()
    check_device(device)
    architecture = BY_MODEL[model]
    options = dict(given)
    options.pop("use_safetensors", None)
    check_attention(options.get("attn_implementation"))
    asked = str(given_or_default(options.pop("pretrained", None), architecture))
    name = resolve_name(asked, architecture)
    tokenizer_name = options.pop("tokenizer", None) or name
    dtype = number_format(options.pop("dtype", default_dtype(asked, architecture)))
    if options.pop("parallelize", False):
        options["device_map"] = "auto"
    hub = {option: options[option] for option in HUB_OPTIONS if option in options}
    try:
        config = AutoConfig.from_pretrained(name, **hub)
        check_config(config, architecture)
        loaded = WholeModel(config).from_pretrained(
            name, config=config, dtype=dtype, use_safetensors=True, **options
        )
        check_token_ids(tokenizer_name)
        codec = AutoTokenizer.from_pretrained(tokenizer_name, **hub) if tokenizer else None
    except SettingError:
        raise
    except Exception as error:
        raise unreachable(asked, error) from error
    if architecture is FAMILY:
        check_layers(loaded, FamilyStack(loaded))
    if "device_map" not in options:
        loaded = loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Pretrained(loaded, codec, architecture, asked)


def check_device(device: object) -> None:
    """Refuse a device that does not exist here.

    Raises:
        SettingError: torch knows no such device, or this machine has none.
    """
    if device is None:
        return
    try:
        torch.empty(0, device=str(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(
            f"device={device}: {first_line(error, 100)}; give cpu, cuda, cuda:1, ..."
        ) from error


def number_format(value: object) -> Any:
    """``"auto"``, or torch's dtype of that name.

    Raises:
        SettingError: no floating-point format.
    """
    if value in {None, "auto"}:
        return "auto"
    dtype = getattr(torch, str(value).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise SettingError(f"dtype={value}: give auto, float32, bfloat16 or float16")
    return dtype
