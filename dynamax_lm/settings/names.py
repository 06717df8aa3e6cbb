"""Names of model arguments, and refusals of unknown names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings.values import hint, refusal

OUR_NAMES = frozenset(
    {
        "exit_layers",
        "confidence",
        "look",
        "threshold",
        "exit_rule",
        "exit_rule_args",
        "heads",
        "layers",
        "skipped_state",
        "prompt_exit",
        "prompt_maps",
        "mode",
        "draft_length",
        "reference",
        "trace_dir",
        "products",
        "cuda_graphs",
        "rows_in_flight",
    }
)
"""This package's arguments, in addition to those of lm-eval's ``hf`` model."""

CHANGE_NO_NUMBER = frozenset(
    {
        "batch_size",
        "max_batch_size",
        "device",
        "parallelize",
        "max_memory_per_gpu",
        "max_cpu_memory",
        "offload_folder",
        "logits_cache",
        "cache_dir",
        "local_files_only",
        "force_download",
        "token",
        "proxies",
        "device_map",
        "max_memory",
        "low_cpu_mem_usage",
    }
)
"""Arguments of the ``hf`` model that change where and how it runs, and no number."""

FIXED_AT_LOADING = frozenset({"cuda_graphs", "layers", "products"})
"""Those that cannot change once the weights have loaded."""

FROM_PRETRAINED_NAMES = frozenset(
    {
        "adapter_kwargs",
        "allow_all_kernels",
        "attn_implementation",
        "cache_dir",
        "code_revision",
        "device_map",
        "device_mesh",
        "disable_mmap",
        "distributed_config",
        "experts_implementation",
        "force_download",
        "fusion_config",
        "generation_config",
        "ignore_mismatched_sizes",
        "kernel_config",
        "key_mapping",
        "local_files_only",
        "low_cpu_mem_usage",
        "max_memory",
        "offload_buffers",
        "offload_state_dict",
        "proxies",
        "quantization_config",
        "token",
        "tp_size",
        "use_kernels",
        "use_safetensors",
        "variant",
        "weights_only",
    }
)
"""Options of ``transformers.PreTrainedModel.from_pretrained`` that lm-eval's ``hf`` model forwards.

From the signature, the documented parameters and the ``kwargs.pop`` calls of transformers 5.23.
Excluded: those that the ``hf`` model has under its own name (``dtype``, ``revision``,
``subfolder``, ``offload_folder``, ``trust_remote_code``, ``gguf_file``, ``tp_plan``),
``torch_dtype`` (silently overridden by ``dtype``), and those that cannot be written as an argument
or change the returned value (``config``, ``state_dict``, ``output_loading_info``, ``tqdm_class``).
"""

_ALIASES = {
    "torch_dtype": "dtype",
    "exits": "exit_layers",
    "exit_layer": "exit_layers",
    "model": "pretrained",
}


_QUANTISED = frozenset({"load_in_4bit", "load_in_8bit"})


def refuse_unknown(names: Iterable[str], allowed: Collection[str]) -> None:
    """Refuse a name that would otherwise be ignored, or fail deep inside a library.

    Args:
        names: given names.
        allowed: every valid name.

    Raises:
        SettingError: with the first unknown name, and the most similar valid name.
    """
    for name in names:
        if name in allowed:
            continue
        if name in _QUANTISED:
            raise SettingError(
                f"{name}: this transformers no longer takes it; give a checkpoint that is stored "
                f"quantised, whose config.json has a quantization_config"
            )
        alias = _ALIASES.get(name)
        near = f"; use {alias}" if alias in allowed else hint(name, allowed)
        ours = ", ".join(sorted(OUR_NAMES & set(allowed)))
        shown = name if name and name.isprintable() else repr(name)
        listing = f"; ours are {ours}, and lm-eval hf's own" if ours else "; leave it out"
        raise SettingError(f"{shown}: no such model argument here{near}{listing}")


def refuse_pickled_weights(given: Mapping[str, object]) -> None:
    """Refuse ``use_safetensors`` set to anything but true: loading a pickle can run code.

    Raises:
        SettingError: ``use_safetensors`` is given and is not true.
    """
    value = given.get("use_safetensors", True)
    if str(value).strip().lower() not in {"true", "1", "none"}:
        why = "weights are read from safetensors only; leave it out, or convert the checkpoint"
        raise refusal("use_safetensors", value, why)


def mend_split_lists(given: Mapping[str, object]) -> dict[str, object]:
    """Rejoin the lists that lm-eval's string interface splits at commas.

    ``simple_evaluate(model_args="exit_layers=[8,16,24]")`` arrives as
    ``{"exit_layers": "[8", "16": "", "24]": ""}``; lists from the command line and dicts are
    not split.

    Args:
        given: all model arguments as they arrived.

    Returns:
        A new dict: the arguments with ``exit_layers`` and ``threshold`` rejoined.
    """
    whole = _mend_thresholds(given)
    start = whole.get("exit_layers")
    if not (isinstance(start, str) and re.match(r"\s*[\[(][^\])]*$", start)):
        return whole
    pieces = [
        name
        for name, value in whole.items()
        if value == "" and re.fullmatch(r"\s*[+-]?\d+\s*[\])]?\s*", name)
    ]
    if not any(piece.rstrip().endswith(("]", ")")) for piece in pieces):
        return whole
    for piece in pieces:
        del whole[piece]
    # the closing piece is moved last, whatever the order of keyword arguments
    pieces.sort(key=lambda piece: piece.rstrip().endswith(("]", ")")))
    whole["exit_layers"] = ",".join([start, *pieces])
    return whole


def _mend_thresholds(given: Mapping[str, object]) -> dict[str, object]:
    """The same for ``threshold``, whose pieces follow it; they may be whole numbers too."""
    names = list(given)
    start = given.get("threshold")
    if not (isinstance(start, str) and re.match(r"\s*[\[(][^\])]*$", start)):
        return dict(given)
    pieces: list[str] = []
    for name in names[names.index("threshold") + 1 :]:
        if given[name] != "" or not re.fullmatch(r"\s*[\d.eE+-]+\s*[\])]?\s*", name):
            return dict(given)
        pieces.append(name)
        if name.rstrip().endswith(("]", ")")):
            whole = {name: value for name, value in given.items() if name not in pieces}
            whole["threshold"] = ",".join([start, *pieces])
            return whole
    return dict(given)
