"""A heads folder on disk or on the hub: ``config.json``, ``model.safetensors``, ``README.md``.

Files are written whole or not at all; tensors are read from safetensors only, and compared with the
digest in the configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dynamax_lm.common.errors import SettingError, first_line
from dynamax_lm.common.outputs import write_files
from dynamax_lm.heads.config import HeadsConfig

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def find_folder(name: str, **hub: Any) -> Path:
    """The local folder of a folder or hub id; files of the hub are downloaded.

    Args:
        name: a folder, or a hub id.
        **hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ... for the hub.

    Raises:
        SettingError: neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise SettingError(f"heads={name}: the folder has no {CONFIG}; is it a heads folder?")
        return path
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise SettingError(f"heads={name}: no such folder; give a folder, a hub id, or none")
    try:
        return Path(str(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, CARD], **hub)))
    except (OSError, ValueError) as error:
        raise SettingError(
            f"heads={name}: neither a folder here nor to be had from the hub "
            f"(offline, misspelt, or gated?): {first_line(error)}"
        ) from error


def read_config(folder: Path) -> HeadsConfig:
    """The configuration in ``folder``; needs no tensors.

    Raises:
        SettingError: it is missing, unreadable or not a configuration of heads.
    """
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"heads {folder / CONFIG} cannot be read: {error}") from error
    try:
        return HeadsConfig.from_json(text)
    except SettingError as error:
        raise SettingError(f"{folder}: {error}") from error


def read_tensors(folder: Path, config: HeadsConfig) -> dict[str, Tensor]:
    """The tensors in ``folder``.

    Raises:
        SettingError: the file is missing, truncated, not safetensors, or changed.
    """
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(f"heads {path} cannot be read: {error}") from error
    try:
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError) as error:
        raise SettingError(f"heads {path} is cut or no safetensors file: {error}") from error
    if hashlib.sha256(content).hexdigest() != config.weights_sha256:
        raise SettingError(
            f"heads {path} is not the file that {CONFIG} was saved with (its sha256 differs): "
            f"fetch or save both again"
        )
    return tensors


def read_card(folder: Path) -> str:
    """The card in ``folder``, empty where there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def write_folder(
    folder: Path, config: HeadsConfig, tensors: Mapping[str, Tensor], card: str
) -> HeadsConfig:
    """Write all three files, whole or not at all; existing ones are replaced.

    Returns:
        The configuration as written, with the digest of the weights.

    Raises:
        SettingError: the folder cannot be written.
    """
    content = save({name: one.detach().cpu().contiguous() for name, one in tensors.items()})
    config = replace(config, weights_sha256=hashlib.sha256(content).hexdigest())
    _replace_files(
        folder,
        {
            WEIGHTS: content,
            CARD: card.encode(),
            CONFIG: config.to_json().encode(),
        },
    )
    return config


def write_config(folder: Path, config: HeadsConfig) -> None:
    """Replace the configuration alone, as certification and calibration do.

    Raises:
        SettingError: the file cannot be written.
    """
    _replace_files(folder, {CONFIG: config.to_json().encode()})


def _replace_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write temporary files, and rename them only when all are complete.

    After a full disk or an interrupt the previous files are still there. Other files of the folder,
    such as logs, are not changed.
    """
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_files({folder / name: content for name, content in contents.items()})
    except OSError as error:
        raise SettingError(f"heads cannot be saved in {folder}: {error}") from error
    finally:
        if fresh:
            with suppress(OSError):
                folder.rmdir()  # only if no file was renamed
