"""Checks of a checkpoint from its configuration, before any weights load.

This module has the names of checkpoints, the supported architectures, and a one-line error for each
unsupported variant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import SettingError, first_line
from dynamax_lm.decoders.description import text_config
from dynamax_lm.decoders.families import FAMILIES, WRAPPERS

TINY = "tiny"
"""The embedded model that is each architecture's own."""

EMBEDDED = ("mistral", "mamba", "hybrid")
"""The embedded models; ``tiny-mistral``, ... name each of them."""


HUB_OPTIONS = ("revision", "subfolder", "trust_remote_code", "cache_dir", "token")
"""Options of ``from_pretrained`` that say where a checkpoint's files are and how they are read."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A family of checkpoints.

    Attributes:
        name: ``attention``, ``mamba2``, or ``family`` for any of the table of families.
        model: the lm-eval model that runs it.
        default: the checkpoint of the paper; empty for none.
        types: supported values of transformers' ``model_type``.
        embedded: the model of ``EMBEDDED`` that ``tiny`` names.
    """

    name: str
    model: str
    default: str
    types: tuple[str, ...]
    embedded: str


ATTENTION = Architecture(
    "attention", "dynamax-mistral", "mistralai/Mistral-7B-v0.3", ("mistral", "llama"), "mistral"
)
MAMBA2 = Architecture(
    "mamba2", "dynamax-mamba", "mistralai/Mamba-Codestral-7B-v0.1", ("mamba2",), "mamba"
)

FAMILY = Architecture("family", "dynamax", "", (*FAMILIES, *WRAPPERS), "mistral")
ARCHITECTURES = (ATTENTION, MAMBA2, FAMILY)
BY_MODEL = {one.model: one for one in ARCHITECTURES}


def given_or_default(pretrained: Any, architecture: Architecture) -> Any:
    """``pretrained``, or the architecture's default checkpoint.

    Raises:
        SettingError: neither.
    """
    missing = pretrained is None or pretrained == ""
    if missing and not architecture.default:
        raise SettingError(
            f"pretrained is missing: --model {architecture.model} runs checkpoints of model_type "
            f"{', '.join(architecture.types)}; give its hub id or folder"
        )
    return architecture.default if missing else pretrained


def embedded_model(pretrained: object, architecture: Architecture) -> str | None:
    """The model of ``EMBEDDED`` that ``pretrained`` names; ``None`` for other checkpoints."""
    if pretrained == TINY:
        return architecture.embedded
    return next((name for name in EMBEDDED if pretrained == f"{TINY}-{name}"), None)


def default_dtype(pretrained: object, architecture: Architecture) -> str | None:
    """The number format where none is named: an embedded model's, or ``None``, the file's own."""
    return "float32" if embedded_model(pretrained, architecture) else None


def embedded_folder(name: str) -> str:
    """The folder of a model of ``EMBEDDED``, inside the package."""
    return str(Path(__file__).parent / "tiny" / name)


def resolve_name(pretrained: str, architecture: Architecture) -> str:
    """The folder or hub id that ``pretrained`` names.

    Raises:
        SettingError: a path that does not exist.
    """
    if name := embedded_model(pretrained, architecture):
        return embedded_folder(name)
    looks_like_path = pretrained.startswith((".", "/", "~")) or pretrained.count("/") > 1
    path = Path(os.path.expanduser(pretrained))
    if looks_like_path and not path.is_dir():
        raise SettingError(
            f"pretrained={pretrained!r}: no such folder; give a folder with a config.json and "
            f"safetensors, a hub id, 'tiny', or one of "
            f"{', '.join(f'{TINY}-{name}' for name in EMBEDDED)}"
        )
    return str(path) if path.is_dir() else pretrained


def unreachable(pretrained: str, error: Exception) -> SettingError:
    """The error line for a checkpoint whose files cannot be found, downloaded or read.

    Args:
        pretrained: the checkpoint as given.
        error: of transformers or the hub's client.
    """
    where = f"pretrained={pretrained!r} cannot be loaded: "
    causes = list(_causes(error))
    names = {type(one).__name__ for one in causes}
    said = " ".join(str(one) for one in causes)
    if "GatedRepoError" in names or "gated repo" in said:
        return SettingError(
            f"{where}it is gated: accept its terms at https://huggingface.co/{pretrained}, then "
            f"run `hf auth login` or set HF_TOKEN"
        )
    original = pretrained.startswith("state-spaces/") and not pretrained.endswith("-hf")
    if original or "should have a `model_type`" in said.lower():
        return SettingError(
            f"{where}it is not in transformers' format (its config.json has no model_type); of "
            f"state-spaces/mamba2-* there are converted repositories, such as "
            f"AntonV/mamba2-130m-hf"
        )
    if "safetensors" in said and ("does not appear to have" in said or "no file named" in said):
        return SettingError(
            f"{where}it has no model.safetensors; weights are read from safetensors only, as a "
            f"pickled pytorch_model.bin may run code: convert it, or take a repository that has "
            f"been converted"
        )
    if Path(pretrained).expanduser().is_dir() or not names & _OF_THE_HUB:
        return SettingError(f"{where}{type(error).__name__}: {first_line(error)}")
    return SettingError(
        f"{where}neither a folder with a model here nor to be had from the hub (offline or "
        f"misspelt?): {first_line(error)}; pretrained=tiny needs no network"
    )


_OF_THE_HUB = frozenset(
    {
        *("OSError", "EnvironmentError", "RepositoryNotFoundError", "RevisionNotFoundError"),
        *("LocalEntryNotFoundError", "OfflineModeIsEnabled", "HFValidationError", "ConnectError"),
        *("ConnectionError", "HfHubHTTPError", "ReadTimeout", "ConnectTimeout"),
    }
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    known: BaseException | None = error
    while known is not None:
        yield known
        known = known.__cause__ or known.__context__


_OTHER_TYPES = "; layers=FILE.py:CLASS can give --model dynamax its layers (CONTRIBUTING.md)"


def is_known(config: Any) -> bool:
    """Whether the package has the decoder of a configuration's ``model_type``."""
    return _kind(config) in FAMILY.types


def check_config(config: Any, architecture: Architecture, *, planned: bool = False) -> None:
    """Refuse architectures that the decoders cannot run.

    Args:
        config: transformers' configuration, of a decoder or of a multimodal wrapper of one.
        architecture: of the model that is to run it.
        planned: whether all layers of another ``model_type`` come from outside the package.

    Raises:
        SettingError: another architecture, or a variant whose decoding and scoring would differ.
    """
    kind, text = _kind(config), text_config(config)
    inner = "" if text is config else f" with the text decoder {_kind(text)!r}"
    new = planned and architecture is FAMILY and not is_known(config) and text is config
    if kind not in architecture.types and not new:
        other = next((one for one in ARCHITECTURES if kind in one.types), None)
        use = f"; use --model {other.model}" if other else "" if inner else _OTHER_TYPES
        raise SettingError(
            f"{architecture.model} runs model_type {_listed(architecture.types)}, and this "
            f"checkpoint has model_type {kind!r}{inner}{use}"
        )
    if kind in WRAPPERS and _kind(text) not in WRAPPERS[kind]:
        raise SettingError(
            f"{architecture.model} runs model_type {kind!r} with the text decoder "
            f"{_listed(WRAPPERS[kind])}, and this checkpoint has it{inner}"
        )
    _check_decoder(text)


def _kind(config: Any) -> Any:
    return getattr(config, "model_type", None)


def _listed(types: Sequence[str]) -> str:
    *others, last = types
    return f"{', '.join(others)} or {last}" if others else last


def _check_decoder(config: Any) -> None:
    """Refuse variants of a supported decoder.

    Raises:
        SettingError: decoding and scoring would differ, or results would be wrong.
    """
    if (layers := getattr(config, "num_hidden_layers", 1)) < 1:
        raise SettingError(f"config.json: num_hidden_layers={layers}: a model has at least one")
    for rope_type in _rope_types(getattr(config, "rope_parameters", None) or {}):
        if rope_type in {"dynamic", "longrope"}:
            raise SettingError(
                f"rope_type {rope_type!r} changes a token's angles as the text grows, so that "
                f"decoding and scoring differ; only rope types that do not depend on length are run"
            )
    low = (getattr(config, "time_step_limit", None) or (0.0,))[0]
    if low > 0.0:
        raise SettingError(
            f"time_step_limit starts at {low}: pads would decay the state; only 0 is run"
        )
    kind = _kind(config)
    for fault in FAMILIES[kind].faults if kind in FAMILIES else ():
        if why := fault(config):
            raise SettingError(f"model_type {kind!r} has {why}")


def _rope_types(rope: Mapping[str, Any]) -> list[str]:
    """The rope type, or that of each type of layer."""
    groups = [group for group in rope.values() if isinstance(group, Mapping)] or [rope]
    return [str(group.get("rope_type", "default")) for group in groups]


def check_attention(implementation: object) -> None:
    """Refuse attention kernels without per-query masks.

    Raises:
        SettingError: not ``sdpa`` or ``eager``.
    """
    if implementation not in {None, "sdpa", "eager"}:
        raise SettingError(
            f"attn_implementation={implementation!r} cannot run rows that exited at different "
            f"layers; use sdpa (default) or eager"
        )
