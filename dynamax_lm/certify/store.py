"""Writes a certificate to the heads' ``config.json``, or to a file of its own.

Each file is written whole or not at all.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dynamax_lm.common.certificate import Certificate
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_text
from dynamax_lm.heads import read_config, write_config
from dynamax_lm.heads.store import CONFIG

FILE = "certificate.json"


def check_heads(folder: Path) -> None:
    """Checks, before anything is run, that a certificate can be written there.

    Raises:
        SettingError: no heads folder, or it cannot be written.
    """
    read_config(folder)
    if not os.access(folder, os.W_OK):
        raise SettingError(f"heads={folder}: the folder cannot be written; give --output_path")


def write_into_heads(folder: Path, certificate: Certificate) -> Path:
    """Replaces the certificate in a heads folder; everything else in its configuration stays.

    Raises:
        SettingError: the file cannot be read or written; the old one is then kept.
    """
    write_config(folder, replace(read_config(folder), certificate=certificate.to_json()))
    return folder / CONFIG


def write_file(folder: Path, certificate: Certificate) -> Path:
    """Writes ``certificate.json`` into a folder.

    Raises:
        SettingError: it cannot be written; an old one is then kept.
    """
    path = folder / FILE
    try:
        write_text(path, certificate.dumps())
    except OSError as error:
        raise SettingError(f"{path}: cannot be written: {error}") from error
    return path
