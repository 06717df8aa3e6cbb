"""The report's pictures, as PNG and SVG.

Markers and hatches differ wherever colours do.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from dynamax_lm.common.intervals import SHARE, Bounds
from dynamax_lm.common.plots import (
    BLACK,
    BLUE,
    CYCLE,
    DARK_GREY,
    DASHED,
    GREEN,
    LIGHT_GREY,
    ORANGE,
    PALE_GREY,
    PURPLE,
    RED,
    SKY,
    encode,
    new_figure,
    shades,
)
from dynamax_lm.report.bounds import bounds_of
from dynamax_lm.report.labels import label_points, measure_of, plain, told_apart
from dynamax_lm.report.reliability import Curve
from dynamax_lm.report.rows import Kind, Row

_DYNAMIC = tuple(zip(CYCLE, ("o", "^", "v", "D", "P", "X"), strict=True))
_LEDGER = (
    ("layers", "layers run", BLUE, ""),
    ("checks", "exit checks", ORANGE, "///"),
    ("projection", "final projection", SKY, ""),
    ("propagation", "skipped state", GREEN, "..."),
    ("recomputation", "recomputation", PURPLE, "xx"),
    ("verification", "verification", RED, "\\\\"),
)
_STYLES: dict[Kind, tuple[str, str, str]] = {
    "static": (DARK_GREY, "s", "fixed depth"),
    "oracle": (BLACK, "*", "oracle (ceiling)"),
    "lossless": (SKY, "h", "lossless"),
    "full": (BLACK, "p", "full depth"),
}
_MOST_BARS = 40
_DPI = 110
_LEGEND_WIDTH = 100
"""Largest number of letters in a row of a legend."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn picture.

    Attributes:
        name: file name without suffix.
        title: its title.
        description: alternative text.
        png: its bytes.
        svg: its text.
    """

    name: str
    title: str
    description: str
    png: bytes
    svg: str


def trade_off(name: str, group: Sequence[Row]) -> Picture | None:
    """Quality and agreement against net FLOPs saved, with the oracle's upper bound.

    Args:
        name: file name without suffix.
        group: a comparison group: rows of one task, metric and conditions.
    """
    drawn = [row for row in group if row.flops_saved is not None]
    if not drawn:
        return None
    figure = new_figure(7.2, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    full = next((row.full_depth.mean for row in drawn if row.full_depth), None)
    for axes, level in ((upper, full), (lower, 1.0)):
        if level is not None:
            axes.axhline(level, color=DARK_GREY, linestyle=DASHED, linewidth=1, zorder=0)
        axes.axvline(0, color=LIGHT_GREY, linewidth=1, zorder=0)
        axes.grid(color=PALE_GREY)
        axes.margins(0.13, 0.12)  # space for the labels of the outermost points
    series = series_of(drawn)
    for label, rows, colour, marker in series:
        line = "" if rows[0].kind in {"oracle", "full"} else "-"
        for axes, values in (
            (upper, [row.quality for row in rows]),
            (lower, [row.agreement for row in rows]),
        ):
            points = [
                (row.flops_saved.mean, value.mean, value.stderr or 0.0, row)
                for row, value in zip(rows, values, strict=True)
                if value is not None and row.flops_saved is not None
            ]
            if not points:
                continue
            x, y, error, _ = zip(*points, strict=True)
            axes.errorbar(
                x,
                y,
                yerr=error,
                label=plain(label, _LEGEND_WIDTH, 2),
                color=colour,
                marker=marker,
                linestyle=line,
                linewidth=1.2,
                markersize=11 if marker == "*" else 7,
                markeredgecolor="black",
                markeredgewidth=0.6,
                elinewidth=0.8,
                capsize=2,
            )
    for axes, bounds in ((upper, bounds_of(drawn[0].key.metric)), (lower, SHARE)):
        end_at_bound(axes, bounds)
    metric = drawn[0].key.metric
    upper.set_ylabel(
        f"{plain(metric, 30, 1)} ({'higher' if drawn[0].higher_is_better else 'lower'} is better)"
    )
    lower.set_ylabel("agreement with full depth")
    lower.set_xlabel("net FLOPs saved over answer tokens")
    lower.xaxis.set_major_formatter(PercentFormatter(1.0))
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    title = f"{drawn[0].checkpoint}, {drawn[0].task}"
    upper.set_title(plain(title, 80), fontsize=11)
    handles, labels = upper.get_legend_handles_labels()
    longest = max(len(line) for label in labels for line in label.splitlines())
    columns = max(1, min(3, _LEGEND_WIDTH // (longest + 8)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    left_out = label_points(lower, [rows for _, rows, _, _ in series])
    told = "Error bars are standard errors over documents; the dashed lines are full depth."
    if left_out:
        told += f" {left_out} of the points have no label, for want of space: the table names them."
    return drawn_picture(
        name, f"{metric} and agreement against net FLOPs saved: {title}", told, figure
    )


def end_at_bound(axes: Any, bounds: Bounds | None) -> None:
    """Let an error bar not take the axis below the least possible value, but for a margin."""
    low, high = axes.get_ylim()
    if bounds is not None and low < bounds.low:
        axes.set_ylim(bottom=max(low, bounds.low - 0.03 * (high - bounds.low)))


def depths(name: str, group: Sequence[Row]) -> Picture | None:
    """Exit layers of one task's tokens, one bar for each setting."""
    bars = [(row, row.run.totals(row.task) or {}) for row in group]
    bars = [(row, totals) for row, totals in bars if totals.get("tokens")][:_MOST_BARS]
    if not bars:
        return None
    layers = sorted({int(k) for _, totals in bars for k in totals["depth_histogram"]})
    colours = shades(len(layers))
    figure, axes = _bar_figure(len(bars))
    for index, (_, totals) in enumerate(bars):
        left = 0.0
        for layer, shade in zip(layers, colours, strict=True):
            share = totals["depth_histogram"].get(str(layer), 0) / totals["tokens"]
            first = layer if index == 0 else None
            axes.barh(
                index,
                share,
                left=left,
                color=shade.paper,
                edgecolor="white",
                linewidth=0.8,
                label=None if first is None else f"layer {layer}",
            )
            if share >= 0.06:
                axes.text(
                    left + share / 2,
                    index,
                    f"{100 * share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=shade.ink,
                )
            left += share
    title = f"{bars[0][0].checkpoint}, {bars[0][0].task}"
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of emitted tokens, in percent, by layers used")
    _finish_bars(figure, axes, [row.setting for row, _ in bars], title)
    return drawn_picture(
        name,
        f"Where tokens leave: {title}",
        "Shares of emitted tokens by the number of layers run, for each setting.",
        figure,
    )


def ledger(name: str, group: Sequence[Row]) -> Picture | None:
    """FLOPs of answer tokens by item, as shares of full depth."""
    bars = [(row, row.run.totals(row.task) or {}) for row in group]
    bars = [(row, t) for row, t in bars if t.get("ledger", {}).get("share_of_full_depth")]
    bars = bars[:_MOST_BARS]
    if not bars:
        return None
    figure, axes = _bar_figure(len(bars))
    most = max(1.0, *(1.0 - totals["flops_saved"] for _, totals in bars))
    for item, label, colour, hatch in _LEDGER:
        shares = [totals["ledger"]["share_of_full_depth"].get(item, 0.0) for _, totals in bars]
        if not any(shares):
            continue
        earlier = [_before(item, totals) for _, totals in bars]
        axes.barh(
            range(len(bars)),
            shares,
            left=earlier,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.6,
            label=label,
        )
    for index, (_, totals) in enumerate(bars):
        text = f"{100 * totals['flops_saved']:+.1f} %".replace("-", "−")
        axes.text(most + 0.15, index, text, va="center", ha="right", fontsize=8)
    axes.text(most + 0.15, -0.75, "net saved", va="center", ha="right", fontsize=8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlim(0, most + 0.16)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of full depth's FLOPs")
    title = f"{bars[0][0].checkpoint}, {bars[0][0].task}"
    _finish_bars(figure, axes, [row.setting for row, _ in bars], title)
    return drawn_picture(
        name,
        f"The ledger: {title}",
        "FLOPs of all answer tokens together by item, as shares of the same tokens at full depth; "
        "the table's savings are means over documents.",
        figure,
    )


def reliability(name: str, title: str, curves: Sequence[Curve]) -> Picture | None:
    """Agreement of exited tokens with full depth, by confidence."""
    curves = [curve for curve in curves if curve.bins][: len(_DYNAMIC)]
    if not curves:
        return None
    figure = new_figure(6.2, 5.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=DARK_GREY, linestyle=DASHED, linewidth=1)
    for curve, (colour, marker) in zip(curves, _DYNAMIC, strict=False):
        x = [one.confidence for one in curve.bins]
        y = [one.agreement for one in curve.bins]
        error = [
            [max(0.0, one.agreement - one.low) for one in curve.bins],
            [max(0.0, one.high - one.agreement) for one in curve.bins],
        ]
        tokens = sum(one.tokens for one in curve.bins)
        axes.errorbar(
            x,
            y,
            yerr=error,
            color=colour,
            marker=marker,
            markersize=7,
            markeredgecolor="black",
            markeredgewidth=0.6,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            label=f"{plain(curve.label, 80, 2)} ({tokens} tokens)",
        )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.05)
    axes.grid(color=PALE_GREY)
    axes.set_xlabel("confidence at the exit, mean of its bin")
    axes.set_ylabel("agreement with full depth")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(plain(title, 70), fontsize=11)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    return drawn_picture(
        name,
        f"Reliability of confidence: {title}",
        "Only tokens that exited early; 95 % intervals for documents as independent units; on the "
        "dashed line a confidence equals agreement.",
        figure,
    )


def series_of(rows: Iterable[Row]) -> list[tuple[str, list[Row], str, str]]:
    """Rows by how depth is chosen: label, rows by saving, colour and marker."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        label = _STYLES[row.kind][2] if row.kind in _STYLES else measure_of(row)
        groups.setdefault(label, []).append(row)
    looks = iter(_DYNAMIC * (1 + len(groups)))
    series = []
    for label, members in groups.items():
        members.sort(key=lambda row: row.flops_saved.mean if row.flops_saved else 0.0)
        kind = members[0].kind
        colour, marker = _STYLES[kind][:2] if kind in _STYLES else next(looks)
        series.append((label, members, colour, marker))
    return series


def _before(item: str, totals: Any) -> float:
    """The start of an item's part of a bar."""
    shares, left = totals["ledger"]["share_of_full_depth"], 0.0
    for name, *_ in _LEDGER:
        if name == item:
            return left
        left += shares.get(name, 0.0)
    return left


def _bar_figure(bars: int) -> tuple[Figure, Any]:
    figure = new_figure(8.4, 1.6 + 0.36 * bars)
    return figure, figure.subplots()


def _finish_bars(figure: Figure, axes: Any, names: Sequence[str], title: str) -> None:
    common, short = told_apart(names)
    axes.set_yticks(range(len(names)), [plain(one, 48) for one in short], fontsize=8)
    axes.invert_yaxis()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    lines = (plain(line, 100) for line in (title, common) if line)
    figure.suptitle("\n".join(lines), fontsize=10)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def drawn_picture(name: str, title: str, description: str, figure: Figure) -> Picture:
    """A figure as a picture of the report."""
    return Picture(
        name=name,
        title=title,
        description=description,
        png=_compact(encode(figure, "png", _DPI)),
        svg=encode(figure, "svg", _DPI).decode(),
    )


def _compact(png: bytes) -> bytes:
    """The same picture in 256 colours, less than half the bytes; rare colours keep their hue."""
    out = io.BytesIO()
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    whole.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(out, "png", optimize=True)
    return out.getvalue()
