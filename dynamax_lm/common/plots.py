"""The common style of all pictures, and how they are saved.

The palette is Okabe and Ito's, which is distinguishable with all kinds of colour vision; cividis
where order matters. Pictures become files, written whole or not at all, or bytes; equal pictures
have equal bytes. No picture relies on colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dynamax_lm.common.outputs import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, BLACK = "#56B4E9", "#D55E00", "#F0E442", "#000000"
CYCLE = (BLUE, RED, GREEN, PURPLE, SKY, ORANGE)
"""Colours of series, in order."""

DARK_GREY, GREY, LIGHT_GREY, PALE_GREY = "#555555", "#999999", "#BBBBBB", "#EEEEEE"
"""Of reference lines and grids."""

DASHED = (0, (4, 3))
"""The line style of a reference."""

_METADATA = {"png": {"Software": None}, "svg": {"Date": None}}


class Shade(NamedTuple):
    """A background and a readable text colour on it, as ``#rrggbb``."""

    paper: str
    ink: str


def shades(count: int) -> list[Shade]:
    """``count`` colours of layers, in order: early exits light, full depth dark (cividis)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["cividis"]
    steps = [0.95 - 0.85 * i / max(1, count - 1) for i in range(count)]
    return [Shade(to_hex(scale(step)), _ink(*scale(step)[:3])) for step in steps]


def new_figure(width: float, height: float, *, constrained: bool = True) -> Figure:
    """An empty figure, independent of pyplot's windows and global list.

    Args:
        width: in inches.
        height: in inches.
        constrained: whether matplotlib's constrained layout is used.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained" if constrained else None)


def encode(figure: Figure, kind: str, dpi: int) -> bytes:
    """A figure as the bytes of a ``png`` or an ``svg``."""
    from matplotlib import rc_context

    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "dynamax_lm"}):  # deterministic ids
        figure.savefig(out, format=kind, dpi=dpi, metadata=_METADATA[kind])
    return out.getvalue()


def save_figure(
    figure: Figure, stem: Path, dpi: int, kinds: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``, each whole or not at all.

    Args:
        figure: the figure.
        stem: the files' path without an ending.
        dpi: dots per inch of a PNG.
        kinds: which of the two.

    Raises:
        OSError: a file cannot be written.
    """
    paths = []
    for kind in kinds:
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        write_bytes(paths[-1], encode(figure, kind, dpi))
    return paths


def _ink(red: float, green: float, blue: float) -> str:
    """Black or white, whichever contrasts more (WCAG's relative luminance)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"
