"""Agreement with full depth and confidence, exits by tokens, as heat maps."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from dynamax_lm.common.plots import BLUE, PALE_GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dynamax_lm.answers import ExitGrid

_NAMED = 40
"""Largest number of tokens whose texts are written on the axis."""
_WRITTEN = 16
"""Largest number of tokens at which predicted tokens are written into the cells."""


def heat_map(grid: ExitGrid) -> Figure:
    """Above, the exits whose prediction is full depth's; below, their confidence.

    The early exits are at the bottom of each panel. Up to a width, the predicted tokens are written
    into the upper panel's cells, so that it can be read as a logit-lens table.
    """
    from matplotlib.colors import ListedColormap

    tokens, exits = grid.confidence.shape
    written = tokens <= _WRITTEN
    width = min(14.0, max(5.0, (0.75 if written else 0.25) * tokens + 2.0))
    figure = new_figure(width, 2 * max(1.6, 0.24 * exits + 0.8) + 0.8)
    upper, lower = figure.subplots(2, 1, sharex=True)
    options = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    agrees = grid.agrees.T.astype(float)
    upper.imshow(agrees, cmap=ListedColormap([PALE_GREY, BLUE]), vmin=0, vmax=1, **options)
    upper.set_title(f"Predicts full depth's token (blue): {grid.agrees.mean():.0%} of cells")
    image = lower.imshow(grid.confidence.T, cmap="cividis", vmin=0, vmax=1, **options)
    lower.set_title(f"Confidence ({grid.measure})")
    figure.colorbar(image, ax=lower, pad=0.01)
    for axes in (upper, lower):
        _label(axes, grid)
    if written:
        for column in range(tokens):
            for row in range(exits):
                colour = "white" if grid.agrees[column, row] else "black"
                piece = _name(str(grid.predicted_pieces[column, row]))
                upper.text(column, row, piece, ha="center", va="center", color=colour, size=6.5)
    lower.set_xlabel("after token")
    return figure


def _label(axes: Axes, grid: ExitGrid) -> None:
    tokens, exits = grid.confidence.shape
    step = max(1, exits // 8)
    axes.set_yticks(range(0, exits, step), [str(one) for one in grid.layers[::step]])
    axes.set_ylabel("layers run")
    if tokens <= _NAMED:
        axes.set_xticks(range(tokens), [_name(piece) for piece in grid.pieces], rotation=60)
        axes.tick_params(axis="x", labelsize=8)


@cache
def _characters() -> frozenset[int]:
    """Those that the font has."""
    from matplotlib import font_manager

    path = font_manager.findfont(font_manager.FontProperties())
    return frozenset(font_manager.get_font(path).get_charmap())


def _name(piece: str) -> str:
    """A token's text, short and safe for matplotlib, which reads dollar signs as formulas."""
    known = _characters()
    shown = piece.replace("\n", "↵").strip() or "␣"
    shown = "".join(one if ord(one) in known else "□" for one in shown)
    return (shown if len(shown) <= 9 else f"{shown[:8]}…").replace("$", r"\$")
