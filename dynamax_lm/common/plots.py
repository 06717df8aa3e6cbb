"""The common style of all pictures, and how they are saved.

The palette is Okabe and Ito's, which is distinguishable with all kinds of colour vision; cividis
where order matters. Pictures become files, written whole or not at all, or bytes; equal pictures
have equal bytes. No picture relies on colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dynamax_lm.common.errors import SettingError
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

_CIVIDIS = (
    *("00224e", "002e6a", "1a386f", "32436d", "434e6c", "535a6d", "61656f", "6f7073", "7d7c78"),
    *("8c8878", "9b9476", "aba072", "bcae6c", "cdbb63", "dec958", "f0d846", "fee838"),
)
"""Seventeen equidistant colours of cividis, so that coloured text needs no matplotlib."""

_METADATA = {"png": {"Software": None}, "svg": {"Date": None}}


class Shade(NamedTuple):
    """A background and a readable text colour on it, as ``#rrggbb``."""

    paper: str
    ink: str


def shades(count: int) -> list[Shade]:
    """``count`` colours of layers, in order: early exits light, full depth dark (cividis)."""
    colours = [_cividis(0.95 - 0.85 * i / max(1, count - 1)) for i in range(count)]
    return [
        Shade("#" + "".join(f"{round(255 * part):02x}" for part in colour), _ink(*colour))
        for colour in colours
    ]


def require_matplotlib() -> None:
    """Refuse to begin what ends with pictures, where the extra ``plots`` is not installed.

    Raises:
        SettingError: matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        raise SettingError("pictures need matplotlib: pip install 'dynamax-lm[plots]'")


def new_figure(width: float, height: float, *, constrained: bool = True) -> Figure:
    """An empty figure, independent of pyplot's windows and global list.

    Args:
        width: in inches.
        height: in inches.
        constrained: whether matplotlib's constrained layout is used.

    Raises:
        SettingError: matplotlib is missing.
    """
    require_matplotlib()
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


def _cividis(place: float) -> tuple[float, float, float]:
    """The colour at ``place`` in [0, 1], between the two of the table beside it."""
    below = min(int(place * (len(_CIVIDIS) - 1)), len(_CIVIDIS) - 2)
    share = place * (len(_CIVIDIS) - 1) - below
    first, second = _CIVIDIS[below : below + 2]
    red, green, blue = (
        ((1 - share) * int(first[a:b], 16) + share * int(second[a:b], 16)) / 255
        for a, b in pairwise((0, 2, 4, 6))
    )
    return red, green, blue


def _ink(red: float, green: float, blue: float) -> str:
    """Black or white, whichever contrasts more (WCAG's relative luminance)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"
