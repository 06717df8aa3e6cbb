"""Labels of points and bars in pictures, and of depths."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from dynamax_lm.common.validation import is_finite
from dynamax_lm.report.label_places import Box, Label, places
from dynamax_lm.report.rows import Row, static_depth
from dynamax_lm.report.rules import threshold_text

_GAP, _PAD, _MARKER = 5.0, 1.0, 4.5
"""Points from a marker's middle to its label, around a label's text, and from a marker's middle to
its edge."""


def depth_text(depth: float) -> str:
    """A depth with one decimal; with two where one would show a whole number that it is not.

    >>> depth_text(8.63), depth_text(8), depth_text(15.96)
    ('8.6', '8.0', '15.96')
    """
    text = f"{depth:.1f}"
    return f"{depth:.2f}" if text.endswith(".0") and depth != round(depth) else text


def plain(text: str, width: int, lines: int = 3) -> str:
    """Text for a picture: in lines of ``width`` letters, cut after ``lines``, and never a formula.

    Names and settings may be of any length and hold any text; matplotlib reads dollar signs as
    formulas, and squeezes the axes beside a long label to nothing.
    """
    shown = textwrap.wrap(text, width, max_lines=lines, placeholder=" …")
    return "\n".join(shown).replace("$", r"\$")


def measure_of(row: Row) -> str:
    """A dynamic setting without its threshold, the name of a picture's line."""
    settings = row.run.settings
    return row.setting.replace(f" ≥ {threshold_text(settings)}", "", 1)


def label_points(axes: Any, series: Sequence[Sequence[Row]]) -> int:
    """Label points by thresholds and depths; adjacent points of a line share a label.

    Thresholds are below their points and depths above where there is space; no label covers a
    marker or another label.

    Args:
        axes: with its points drawn, of a figure that is otherwise finished: its layout is fixed.
        series: the lines.

    Returns:
        How many labels are left out, since no place beside their point is free.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # the layout moves the axes
    figure.set_layout_engine("none")
    notes = [note for rows in series for note in _notes(axes, rows)]
    unit = figure.dpi / 72
    labels = []
    for note, above in notes:
        box = note.get_window_extent()
        x, y = axes.transData.transform(note.xy)
        pad = 2 * _PAD * unit
        labels.append(Label(x, y, box.width + pad, box.height + pad, above))
    half = _MARKER * unit
    markers = []
    for row in (row for rows in series for row in rows):
        if row.flops_saved is not None and row.agreement is not None:
            x, y = axes.transData.transform((row.flops_saved.mean, row.agreement.mean))
            markers.append(Box(x - half, y - half, x + half, y + half))
    found = places(labels, markers, Box(*axes.bbox.extents), _GAP * unit)
    for (note, _), label, box in zip(notes, labels, found, strict=True):
        if box is None:
            note.remove()
        else:
            right, up = (box.left - label.x) / unit, (box.bottom - label.y) / unit
            note.set_position((right + _PAD, up + _PAD))
    return found.count(None)


def _notes(axes: Any, rows: Sequence[Row]) -> list[tuple[Any, bool]]:
    """The labels of a line, none placed yet, and whether each is better above its point."""
    static = any(static_depth(row.run) is not None for row in rows)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    wide, high = abs(right - left) or 1.0, abs(top - bottom) or 1.0
    groups: list[list[tuple[float, float, float]]] = []
    for row in rows:
        value = _labelled(row)
        if value is None or row.flops_saved is None or row.agreement is None:
            continue
        x, y = row.flops_saved.mean, row.agreement.mean
        near = (
            group
            for group in groups
            if abs(group[0][0] - x) < 0.05 * wide and abs(group[0][1] - y) < 0.06 * high
        )
        group = next(near, None)
        if group is None:
            groups.append(group := [])
        group.append((x, y, value))
    notes = []
    for group in groups:
        across, up, values = zip(*group, strict=True)
        note = axes.annotate(
            ("{} layers" if static else "≥ {}").format(
                "–".join(f"{value:g}" for value in sorted({min(values), max(values)}))
            ),
            (max(across), max(up) if static else min(up)),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
            annotation_clip=False,
        )
        notes.append((note, static))
    return notes


def _labelled(row: Row) -> float | None:
    """The number that distinguishes a row's point on its line."""
    if row.kind == "dynamic":
        if not row.run.settings.get("exit_layers"):  # prompts exit, answers do not
            return None
        threshold = row.run.settings.get("threshold")
        return float(threshold) if is_finite(threshold) else None
    return static_depth(row.run)


def told_apart(names: Sequence[str]) -> tuple[str, list[str]]:
    """The common part of all settings but full depth, which has no parts, and the rest of each."""
    parts = [name.split(", ") for name in names]
    divided = [some for some in parts if some[1:]]
    common = [part for part in (divided or parts)[0] if all(part in some for some in divided)]
    left = [", ".join(part for part in some if part not in common) for some in parts]
    if len(names) < 2 or not all(left):
        return "", list(names)
    return ", ".join(common), left
