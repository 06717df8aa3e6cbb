"""Where a certificate is kept: the heads' ``config.json``, or a file of its own.

Owns the two files, each written whole or not at all. It does not know how a certificate came about.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dynamax_lm.certificate import Certificate
from dynamax_lm.errors import SettingError

CONFIG, FIELD, FILE = "config.json", "certificate", "certificate.json"


def check_heads(folder: Path) -> None:
    """Makes sure, before anything is run, that a certificate can be put there.

    Raises:
        SettingError: no heads folder, or it cannot be written.
    """
    _read(folder)
    if not os.access(folder, os.W_OK):
        raise SettingError(f"heads={folder}: the folder cannot be written; give --output_path")


def check_output(folder: Path) -> None:
    """Makes the folder, and makes sure that it can be written.

    Raises:
        SettingError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"output_path={folder}: cannot be made: {error}") from error
    if not os.access(folder, os.W_OK):
        raise SettingError(f"output_path={folder}: the folder cannot be written")


def write_into_heads(folder: Path, certificate: Certificate) -> Path:
    """Replaces the certificate in a heads folder; everything else in its configuration stays.

    Raises:
        SettingError: the file cannot be read or written; the old one then stays.
    """
    config = _read(folder) | {FIELD: certificate.to_json()}
    return _write(folder / CONFIG, json.dumps(config, indent=2, allow_nan=False) + "\n")


def write_file(folder: Path, certificate: Certificate) -> Path:
    """Writes ``certificate.json`` into a folder.

    Raises:
        SettingError: it cannot be written; an old one then stays.
    """
    return _write(folder / FILE, certificate.dumps())


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"heads={folder}: {CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict) or FIELD not in config:
        raise SettingError(f"heads={folder}: {CONFIG} is not that of trained heads: no {FIELD!r}")
    return config


def _write(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise SettingError(f"{path}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
