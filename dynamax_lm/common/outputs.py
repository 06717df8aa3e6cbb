"""Whether a command can write where it was told to, asked before any work begins.

Owns that one question. It does not know what is written, and makes nothing itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from dynamax_lm.common.errors import SettingError


def writable_folder(path: Path | str) -> Path:
    """The folder that ``--output_path`` leads to, which is there or can be made.

    Raises:
        SettingError: a file is in the way, or nothing may be written there.
    """
    folder = Path(path)
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        raise SettingError(f"--output_path {folder}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SettingError(f"--output_path {folder}: {there} cannot be written to")
    return folder
