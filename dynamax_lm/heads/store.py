"""A folder of heads or prompt maps: ``config.json``, ``model.safetensors``, ``README.md``.

Files are written whole or not at all; tensors are read from safetensors only, and compared with the
digest in the configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dynamax_lm.common.errors import SettingError, error_line, first_line
from dynamax_lm.common.outputs import write_files
from dynamax_lm.heads.config import HeadsConfig
from dynamax_lm.heads.prompt_map_config import PromptMapsConfig

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

_Config = TypeVar("_Config", HeadsConfig, PromptMapsConfig)
_Module = TypeVar("_Module", bound=nn.Module)


def find_folder(
    name: str, kind: type[HeadsConfig] | type[PromptMapsConfig] = HeadsConfig, **hub: Any
) -> Path:
    """The local folder of a folder or hub id; files of the hub are downloaded.

    Args:
        name: a folder, or a hub id.
        kind: of its configuration.
        **hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ... for the hub.

    Raises:
        SettingError: neither.
    """
    path, given = Path(name).expanduser(), f"{kind.ARGUMENT}={name}"
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise SettingError(
                f"{given}: the folder has no {CONFIG}; is it a {kind.SUBJECT} folder?"
            )
        return path
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise SettingError(f"{given}: no such folder; give a folder, a hub id, or none")
    try:
        return Path(str(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, CARD], **hub)))
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{given}: neither a folder here nor to be had from the hub "
            f"(offline, misspelt, or gated?): {first_line(error)}"
        ) from error


def read_config(folder: Path) -> HeadsConfig:
    """The configuration of heads in ``folder``; see :func:`read_config_as`."""
    return read_config_as(HeadsConfig, folder)


def read_config_as(kind: type[_Config], folder: Path) -> _Config:
    """The configuration in ``folder``; needs no tensors.

    Raises:
        SettingError: it is missing, unreadable or no configuration of this kind.
    """
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{kind.SUBJECT} {folder / CONFIG} cannot be read: {error}") from error
    try:
        return kind.from_json(text)
    except SettingError as error:
        raise SettingError(f"{folder}: {error}") from error


def read_tensors(folder: Path, config: HeadsConfig | PromptMapsConfig) -> dict[str, Tensor]:
    """The tensors in ``folder``.

    Raises:
        SettingError: the file is missing, truncated, not safetensors, or changed.
    """
    path = folder / WEIGHTS
    what = f"{config.SUBJECT} {path}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(f"{what} cannot be read: {error}") from error
    try:
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError) as error:
        raise SettingError(f"{what} is cut or no safetensors file: {error}") from error
    if hashlib.sha256(content).hexdigest() != config.weights_sha256:
        raise SettingError(
            f"{what} is not the file that {CONFIG} was saved with (its sha256 differs): "
            f"fetch or save both again"
        )
    return tensors


def filled(
    make: Callable[[], _Module], folder: Path, config: HeadsConfig | PromptMapsConfig
) -> _Module:
    """A module with the tensors in ``folder``, for evaluation.

    Args:
        make: makes it from ``config``.
        folder: of the files.
        config: in the folder.

    Raises:
        SettingError: files that are truncated, changed or of another shape.
    """
    tensors = read_tensors(folder, config)
    try:
        with torch.device("meta"):  # sizes that the file does not have are never allocated
            plan = make()
    except (RuntimeError, TypeError, OverflowError) as error:  # of torch, on absurd sizes
        raise SettingError(
            f"{config.SUBJECT} {folder / CONFIG}: {config.SUBJECT} of such sizes cannot be made "
            f"({error_line(error, 120)})"
        ) from error
    kind = _dtype(config)
    _compare(plan.state_dict(), tensors, kind, f"{config.SUBJECT} {folder / WEIGHTS}")
    module = make()
    module.load_state_dict(dict(tensors))
    return module.eval()


def _dtype(config: HeadsConfig | PromptMapsConfig) -> torch.dtype:
    """Of the tensors in the file."""
    dtype: torch.dtype = getattr(torch, config.stored_format())
    return dtype


def _compare(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], dtype: torch.dtype, where: str
) -> None:
    """Refuse tensors that are not those of the configuration."""
    for what, names in (
        ("lacks", own.keys() - tensors.keys()),
        ("has unknown", tensors.keys() - own.keys()),
    ):
        if names:
            raise SettingError(f"{where} {what} {', '.join(sorted(names)[:3])}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape or tensor.dtype != dtype:
            raise SettingError(
                f"{where}: {name} is {list(tensor.shape)} {tensor.dtype}, and the configuration "
                f"says {list(own[name].shape)} {dtype}"
            )
        if not bool(tensor.isfinite().all()):
            raise SettingError(f"{where}: {name} is not finite")


def read_card(folder: Path) -> str:
    """The card in ``folder``, empty where there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def write_folder(
    folder: Path, config: _Config, tensors: Mapping[str, Tensor], card: str
) -> _Config:
    """Write all three files, whole or not at all; existing ones are replaced.

    Returns:
        The configuration as written, with the digest of the weights.

    Raises:
        SettingError: the folder cannot be written, or the tensors are not numbers of the format
            that the configuration states.
    """
    dtype = _dtype(config)
    written = {name: one.detach().cpu().to(dtype).contiguous() for name, one in tensors.items()}
    for name, one in tensors.items():
        if not torch.equal(written[name].to(one.dtype), one.detach().cpu()):
            raise SettingError(
                f"{config.SUBJECT}: {name} has numbers that {dtype} does not have; round them first"
            )
    content = save(written)
    config = replace(config, weights_sha256=hashlib.sha256(content).hexdigest())
    contents = {WEIGHTS: content, CARD: card.encode(), CONFIG: config.to_json().encode()}
    _replace_files(folder, contents, config.SUBJECT)
    return config


def write_config(folder: Path, config: HeadsConfig) -> None:
    """Replace the configuration alone, as certification and calibration do.

    Raises:
        SettingError: the file cannot be written.
    """
    _replace_files(folder, {CONFIG: config.to_json().encode()}, config.SUBJECT)


def _replace_files(folder: Path, contents: Mapping[str, bytes], what: str) -> None:
    """Write temporary files, and rename them only when all are complete.

    After a full disk or an interrupt the previous files are still there. Other files of the folder,
    such as logs, are not changed.
    """
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_files({folder / name: content for name, content in contents.items()})
    except OSError as error:
        raise SettingError(f"{what} cannot be saved in {folder}: {error}") from error
    finally:
        if fresh:
            with suppress(OSError):
                folder.rmdir()  # only if no file was renamed
