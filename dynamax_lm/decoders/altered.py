"""Refusals of models whose layers do more than transformers' own code.

A decoder runs a model in pieces: it calls norms, projections and feed-forward blocks as modules,
and does the rest of an attention or state-space layer itself. What changes the model elsewhere,
such as another class, a forward hook or an adapter that adds tokens, would be passed by in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from dynamax_lm.common.errors import SettingError

_ADAPTERS = frozenset(
    {
        *("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA"),
        *("VBLORA", "RANDLORA", "TRAINABLE_TOKENS", "LN_TUNING", "MISS", "C3A", "SHIRA", "ROAD"),
        *("GRALORA", "DELORA", "OSF", "WAVEFT"),
    }
)
"""Kinds of PEFT adapters that act inside modules which are called as modules."""

_WITH_STATE_SPACE = frozenset(
    {
        *("mamba", "mamba2", "falcon_mamba", "bamba", "falcon_h1", "granitemoehybrid", "jamba"),
        *("nemotron_h", "zamba2"),
    }
)
"""Values of ``model_type`` whose layers convolve over tokens, padding included."""

_THEIRS = ("transformers.", "torch.nn.")


def check_unaltered(model: Any) -> None:
    """Refuse a model with code or hooks of its own where a decoder does not call modules.

    Args:
        model: a causal language model of transformers, without PEFT's wrapper.

    Raises:
        SettingError: names the module and what it does more.
    """
    for name, module in _run_in_pieces(model):
        if what := _alteration(module):
            raise SettingError(
                f"the model's {name or 'top module'} {what}, which early exits would ignore: they "
                f"run layers in pieces; use a model with transformers' own layers"
            )


def check_adapters(model: Any) -> None:
    """Refuse PEFT adapters that act on inputs, caches or layers as a whole.

    Args:
        model: PEFT's wrapper of a model, or any other model.

    Raises:
        SettingError: names the adapter's kind.
    """
    adapters = getattr(model, "peft_config", None)
    if not isinstance(adapters, Mapping):
        return
    mamba = getattr(model.config, "model_type", None) in _WITH_STATE_SPACE
    for name, config in adapters.items():
        if why := _unfit(config, mamba):
            raise SettingError(
                f"peft: adapter {name!r} {why}; adapters of linear layers (LoRA, DoRA, IA3, ...) "
                f"are run, or merge it into the checkpoint"
            )


def _unfit(config: Any, mamba: bool) -> str:
    kind = getattr(config, "peft_type", None)
    kind = str(getattr(kind, "value", kind))
    if getattr(config, "is_prompt_learning", False) or kind not in _ADAPTERS:
        return f"is of kind {kind}, which is not known to act inside single modules alone"
    if getattr(config, "alora_invocation_tokens", None):
        return "is an activated LoRA, which depends on a token of the prompt"
    if getattr(config, "layer_replication", None):
        return "has layer_replication, under which several layers share one cache"
    if mamba and getattr(config, "lora_bias", False):
        return "has lora_bias, under which pads of a batch leak into a state-space layer's state"
    return ""


def _run_in_pieces(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose ``forward`` is not called, by name."""
    yield "", model
    name, decoder = next(
        ((name, one) for name in ("model", "backbone") if (one := getattr(model, name, None))),
        ("", None),
    )
    if decoder is None:
        return
    yield name, decoder
    inner = getattr(decoder, "language_model", None)  # of a multimodal wrapper
    if inner is not None:
        name, decoder = f"{name}.language_model", inner
        yield name, decoder
    for number, layer in enumerate(decoder.layers):
        yield from _parts(f"{name}.layers.{number}", layer)


_PARTS = ("shared_transformer", "mamba_decoder", "self_attn", "mixer", "mamba", "conv1d")


def _parts(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A module and those inside whose ``forward`` is not called either."""
    yield name, module
    for inner in _PARTS:
        found = getattr(module, inner, None)
        if found is not None:
            yield from _parts(f"{name}.{inner}", found)


def _alteration(module: nn.Module) -> str:
    """What calling a module would do beside transformers' own ``forward``; empty for nothing."""
    if module._forward_pre_hooks or module._forward_hooks:
        return "has a forward hook"
    if hasattr(module, "_orig_mod"):
        return "is compiled"
    forward = type(module).forward
    if not f"{getattr(forward, '__module__', '')}.".startswith(_THEIRS):
        return f"is a {type(module).__module__}.{type(module).__qualname__}"
    if "forward" in vars(module) and not _is_placed(module):
        return "has a forward of its own"
    return ""


def _is_placed(module: nn.Module) -> bool:
    """Whether its ``forward`` is accelerate's, with its own hooks, which move tensors."""
    hook = vars(module).get("_hf_hook")
    if hook is None:
        return False
    return all(
        type(one).__module__ == "accelerate.hooks" for one in getattr(hook, "hooks", (hook,))
    )
