"""The picture of savings as part of the page: points that name their setting and lead to answers.

A drawing in numbers, which the page's template writes as SVG: it needs no script and no library.
Every point is a link, so that it is reached by pointer and by keyboard alike. The same rows as in
the picture for print, and as CSV beside it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dynamax_lm.report.cells import numbers_of
from dynamax_lm.report.labels import told_apart
from dynamax_lm.report.pictures import series_of
from dynamax_lm.report.rows import Row
from dynamax_lm.report.runs import Value
from dynamax_lm.report.tables import inert

WIDTH, LEFT, RIGHT = 720, 64, 700
"""Of the drawing, and of its panels, in SVG units."""

_TOP, _HIGH, _GAP = 56, 190, 22
_SHAPES = {
    "o": "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0",
    "s": "M-5.5,-5.5h11v11h-11z",
    "^": "M0,-7L6.5,5H-6.5z",
    "v": "M0,7L6.5,-5H-6.5z",
    "D": "M0,-7.5L7.5,0L0,7.5L-7.5,0z",
    "P": "M-2.5,-7h5v4.5h4.5v5h-4.5v4.5h-5v-4.5h-4.5v-5h4.5z",
    "X": "M-6,-3L-3,-6L0,-3L3,-6L6,-3L3,0L6,3L3,6L0,3L-3,6L-6,3L-3,0z",
    "p": "M0,-7.5L7.1,-2.3L4.4,6.1H-4.4L-7.1,-2.3z",
    "h": "M0,-7L6,-3.5V3.5L0,7L-6,3.5V-3.5z",
    "*": "M0,-8L2,-2.5H8L3.2,1L5,7L0,3.5L-5,7L-3.2,1L-8,-2.5H-2z",
}
"""Matplotlib's markers, around 0."""


class Tick(NamedTuple):
    """A line of the grid: where it is, and its text."""

    at: float
    text: str


class Mark(NamedTuple):
    """A point of one panel.

    Attributes:
        x: across.
        y: down.
        low: the end of one standard error below.
        high: the end of one standard error above.
    """

    x: float
    y: float
    low: float
    high: float


class Point(NamedTuple):
    """A setting.

    Attributes:
        setting: its name, without what all settings share.
        numbers: its savings, metric and agreement, in words.
        link: its answers, or its row of the table.
        shape: the marker's outline.
        colour: of the marker.
        marks: one in each panel that has it.
    """

    setting: str
    numbers: str
    link: str
    shape: str
    colour: str
    marks: list[Mark]


class Panel(NamedTuple):
    """One quantity against the saving.

    Attributes:
        label: the quantity.
        top: of the panel.
        bottom: of the panel.
        ticks: of the quantity.
        level: full depth's value; ``None`` if unknown.
    """

    label: str
    top: float
    bottom: float
    ticks: list[Tick]
    level: float | None


class Scatter(NamedTuple):
    """A drawing.

    Attributes:
        title: checkpoint and task.
        common: what all settings share.
        height: of the drawing.
        ticks: of the savings.
        panels: the task's metric, and agreement.
        points: every setting.
        legend: name, outline and colour of each kind of setting.
    """

    title: str
    common: str
    height: float
    ticks: list[Tick]
    panels: list[Panel]
    points: list[Point]
    legend: list[tuple[str, str, str]]


def scatter_of(rows: Sequence[Row], link: Callable[[Row], str]) -> Scatter | None:
    """Draw the rows of one comparison group.

    Args:
        rows: with the savings that their points stand for.
        link: where the point of a row leads.

    Returns:
        ``None`` where no row has a saving.
    """
    drawn = [row for row in rows if row.flops_saved is not None]
    if not drawn:
        return None
    metric = drawn[0].key.metric
    full = next((row.full_depth.mean for row in drawn if row.full_depth), None)
    across = _Axis([row.flops_saved for row in drawn], [0.0], LEFT, RIGHT)
    panels, axes = [], []
    sides: list[tuple[str, list[Value | None], float | None]] = [
        (metric, [row.quality for row in drawn], full),
        ("agreement", [row.agreement for row in drawn], 1.0),
    ]
    for number, (label, values, level) in enumerate(sides):
        top = _TOP + number * (_HIGH + _GAP)
        axis = _Axis(values, [] if level is None else [level], top + _HIGH, top)
        axes.append(axis)
        at = None if level is None else axis.place(level)
        ticks = axis.ticks(percent=label == "agreement")
        panels.append(Panel(label, top, top + _HIGH, ticks, at))
    common, short = told_apart([row.setting for row in drawn])
    names = dict(zip(map(id, drawn), short, strict=True))
    points, legend = [], []
    for label, members, colour, marker in series_of(drawn):
        legend.append((label, _SHAPES[marker], colour))
        for row in members:
            marks = [
                _mark(row.flops_saved, value, across, axis)
                for value, axis in zip((row.quality, row.agreement), axes, strict=True)
                if value is not None and row.flops_saved is not None
            ]
            name = names[id(row)]
            points.append(Point(name, numbers_of(row), link(row), _SHAPES[marker], colour, marks))
    bottom = panels[-1].bottom
    return Scatter(
        title=f"{drawn[0].checkpoint}, {drawn[0].task}",
        common=common,
        height=bottom + 48 + 20 * len(legend),
        ticks=across.ticks(percent=True),
        panels=panels,
        points=points,
        legend=legend,
    )


def points_csv(rows: Sequence[Row]) -> str:
    """The points of the picture, unrounded; an empty field where a number is unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("flops_saved", "quality", "agreement")
    writer.writerow(
        [
            *("checkpoint", "task", "metric", "setting", "kind"),
            *(f"{name}{end}" for name in names for end in ("", "_stderr")),
        ]
    )
    for row in rows:
        texts = (row.checkpoint, row.task, row.key.metric, row.setting, row.kind)
        values = [getattr(row, name) for name in names]
        numbers = [
            number
            for value in values
            for number in ((None, None) if value is None else (value.mean, value.stderr))
        ]
        writer.writerow([*map(inert, texts), *numbers])
    return out.getvalue()


class _Axis:
    """From values to places in the drawing."""

    def __init__(
        self, values: Sequence[Value | None], levels: Sequence[float], start: float, end: float
    ) -> None:
        spread = [
            value.mean + side * (value.stderr or 0.0)
            for value in values
            if value is not None
            for side in (-1, 1)
        ]
        low, high = min([*spread, *levels], default=0.0), max([*spread, *levels], default=1.0)
        margin = 0.06 * (high - low) or 0.05
        self.low, self.high = low - margin, high + margin
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        """Where a value is."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, *, percent: bool) -> list[Tick]:
        """Round values inside, with their texts."""
        from matplotlib.ticker import MaxNLocator

        values = [float(one) for one in MaxNLocator(6).tick_values(self.low, self.high)]
        step = values[1] - values[0] if len(values) > 1 else 1.0
        inside = [value for value in values if self.low <= value <= self.high]
        if percent:
            digits = 0 if step >= 0.01 else 1
            texts = [f"{100 * value:.{digits}f} %" for value in inside]
        else:
            texts = [f"{value:.6g}" for value in inside]
        return [
            Tick(self.place(value), text.replace("-", "−"))
            for value, text in zip(inside, texts, strict=True)
        ]


def _mark(saved: Value, value: Value, across: _Axis, up: _Axis) -> Mark:
    error = value.stderr or 0.0
    return Mark(
        across.place(saved.mean),
        up.place(value.mean),
        up.place(value.mean - error),
        up.place(value.mean + error),
    )
