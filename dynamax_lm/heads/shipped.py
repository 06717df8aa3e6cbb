"""The trained heads that come with the package, by name.

They are inside the installed package, or at the top of a source tree.
"""

from __future__ import annotations

from pathlib import Path

NAMES = ("tiny-mistral", "tiny-mamba", "tiny-hybrid")
"""The names under which heads may ship."""

DRAFTS = ("tiny-mistral-drafts", "tiny-mamba-drafts")
"""Translators of early layers for ``mode=lossless``, without classifier and certificate."""

OF_CHECKPOINTS = ("smollm2-135m-instruct",)
"""Heads of published checkpoints; the heads ship, their checkpoints do not."""

_PLACES = (Path(__file__).parents[1] / "shipped_heads", Path(__file__).parents[2] / "heads")


def shipped_folder(name: str) -> Path | None:
    """The folder of the shipped heads ``name``, or ``None`` if there are none."""
    if name not in NAMES + DRAFTS + OF_CHECKPOINTS:
        return None
    found = (place / name for place in _PLACES)
    return next((folder for folder in found if (folder / "config.json").is_file()), None)
