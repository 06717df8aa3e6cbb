"""Labels of points and bars in pictures, and of depths."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from dynamax_lm.common.validation import is_finite
from dynamax_lm.report.rows import Row, static_depth
from dynamax_lm.report.rules import threshold_text


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


def label_points(axes: Any, rows: Sequence[Row]) -> None:
    """Label points by thresholds and depths; adjacent points of a line share a label.

    Thresholds are below their points and depths above, so that those of close lines do not overlap.
    """
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
    for group in groups:
        across, up, values = zip(*group, strict=True)
        axes.annotate(
            ("{} layers" if static else "≥ {}").format(
                "–".join(f"{value:g}" for value in sorted({min(values), max(values)}))
            ),
            (max(across), max(up) if static else min(up)),
            xytext=(5, 7 if static else -13),
            textcoords="offset points",
            fontsize=8,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
            annotation_clip=False,
        )


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
