"""The trained heads that come with the package, by name.

Owns where they lie: inside the installed package, or at the top of a source tree. It does not know
which checkpoint they belong to beyond their name.
"""

from __future__ import annotations

from pathlib import Path

NAMES = ("tiny-mistral", "tiny-mamba")
"""The names under which heads may ship."""

_PLACES = (Path(__file__).parents[1] / "shipped_heads", Path(__file__).parents[2] / "heads")


def shipped_folder(name: str) -> Path | None:
    """The folder of shipped heads, or ``None`` where none ship under ``name``."""
    if name not in NAMES:
        return None
    found = (place / name for place in _PLACES)
    return next((folder for folder in found if (folder / "config.json").is_file()), None)
