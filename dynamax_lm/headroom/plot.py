"""A headroom report as one picture: agreement by layer, ceilings by task, labels by k.

Lines differ in more than their colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamax_lm.common.plots import (
    BLACK,
    BLUE,
    CYCLE,
    DARK_GREY,
    GREEN,
    GREY,
    ORANGE,
    new_figure,
    save_figure,
)
from dynamax_lm.headroom.measure import KS, Ceiling, Headroom

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (*CYCLE, BLACK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_POOL = BLACK


def draw(found: Sequence[Headroom], title: str, layers: int, stem: Path) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg.

    Args:
        found: tasks, and their pool last.
        title: model and checkpoint.
        layers: L, full depth.
        stem: the files' path without an ending.
    """
    bars = 1.6 + 0.55 * len(found)
    figure = new_figure(9.6, 4.4 + bars)  # legible at the width of a page
    panels = figure.subplot_mosaic(
        [["agreement", "labels"], ["ceilings", "ceilings"]],
        gridspec_kw={"height_ratios": [4.0, bars]},
    )
    _agreement(panels["agreement"], found, layers)
    _labels(panels["labels"], found[-1])
    _bars(panels["ceilings"], found)
    figure.suptitle(f"Headroom of {title}: untrained exits, exact states")
    return save_figure(figure, stem, dpi=150)


def _agreement(axes: Axes, found: Sequence[Headroom], layers: int) -> None:
    for number, one in enumerate(found[:-1]):
        axes.plot(
            [at.layer for at in one.layers],
            [100 * at.agreement.value for at in one.layers],
            color=_COLOURS[number % 6],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            linewidth=1,
            label=_short(one.name),
        )
    pool = found[-1]
    at = [one.layer for one in pool.layers]
    low = [100 * _low(one.agreement) for one in pool.layers]
    high = [100 * _high(one.agreement) for one in pool.layers]
    axes.fill_between(at, low, high, color=_POOL, alpha=0.15, linewidth=0)
    axes.plot(
        at,
        [100 * one.agreement.value for one in pool.layers],
        color=_POOL,
        linewidth=2.5,
        label=pool.name if len(found) > 1 else _short(pool.name),
    )
    depth = pool.free.layers_used.value
    axes.axvline(depth, color=DARK_GREY, linestyle=":", label=f"oracle: {depth:.1f} of {layers}")
    axes.set(xlabel="exit after layer", ylabel="tokens equal to full depth's, %", ylim=(0, 100))
    axes.set_title("Agreement by layer")
    axes.legend(fontsize=7, frameon=False)
    axes.grid(alpha=0.3)


def _bars(axes: Axes, found: Sequence[Headroom]) -> None:
    kinds = [
        ("free checks, all exits", [one.free for one in found], BLUE, ""),
        ("vocabulary checks, best exits", [one.checked for one in found], ORANGE, "//"),
        ("vocabulary checks, default exits", [one.default for one in found], GREEN, ".."),
    ]
    for offset, (name, ceilings, colour, hatch) in enumerate(kinds):
        axes.barh(
            [row + 0.27 * (offset - 1) for row in range(len(found))],
            [100 * one.saved.value for one in ceilings],
            height=0.25,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            xerr=_errors(ceilings),
            error_kw={"elinewidth": 1, "ecolor": "#333333"},
            label=name,
        )
        for row, one in enumerate(ceilings):
            if not one.exits:  # no bar without exits
                place = (1, row + 0.27 * (offset - 1))
                axes.annotate("no exit pays", place, va="center", fontsize=7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found)), [_short(one.name) for one in found])
    axes.invert_yaxis()
    axes.set(xlabel="net FLOPs saved over answer tokens by an oracle policy, %")
    axes.set_title("Ceiling")
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    axes.grid(axis="x", alpha=0.3)


def _labels(axes: Axes, pool: Headroom) -> None:
    for number, k in enumerate(KS):
        axes.plot(
            [at.layer for at in pool.layers],
            [100 * at.positive[k] for at in pool.layers],
            color=_COLOURS[number],
            marker=_MARKERS[number],
            markersize=4,
            label="strict (k = 1)" if k == 1 else f"top {k}",
        )
    axes.axhspan(10, 90, color=GREY, alpha=0.12, linewidth=0, label="rarer label over 10 %")
    axes.set(xlabel="exit after layer", ylabel="positive labels, % of tokens", ylim=(0, 100))
    axes.set_title("Balance of labels")
    axes.legend(fontsize=7, frameon=False)
    axes.grid(alpha=0.3)


def _errors(ceilings: Sequence[Ceiling]) -> Any:
    below = [100 * (one.saved.value - _low(one.saved)) for one in ceilings]
    above = [100 * (_high(one.saved) - one.saved.value) for one in ceilings]
    return [[max(0.0, value) for value in below], [max(0.0, value) for value in above]]


def _low(found: Any) -> float:
    return float(found.value if found.low is None else found.low)


def _high(found: Any) -> float:
    return float(found.value if found.high is None else found.high)


def _short(name: str) -> str:
    return name.removeprefix("dynamax_")
