"""Colours of layers, in order, told apart without colour vision and in grey print.

Owns the one scale that pictures and pages share: early exits light, full depth dark.
"""

from __future__ import annotations

from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.colors import to_hex


class Shade(NamedTuple):
    """A background and the ink that is readable on it, as ``#rrggbb``."""

    paper: str
    ink: str


def shades(count: int) -> list[Shade]:
    """``count`` colours from light to dark (cividis)."""
    scale = colormaps["cividis"]
    steps = [0.95 - 0.85 * i / max(1, count - 1) for i in range(count)]
    return [Shade(to_hex(scale(step)), _ink(*scale(step)[:3])) for step in steps]


def _ink(red: float, green: float, blue: float) -> str:
    """Black or white, whichever contrasts more (WCAG's relative luminance)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"
