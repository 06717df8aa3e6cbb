"""Pareto-optimal settings in saving and quality.

The oracle, an upper bound, is excluded. Full depth is always included: it saves nothing and agrees
with itself, and dominates a setting that costs more and is no better. A fixed depth stands for the
model of so many layers, as in the baselines. A value that is the same under every setting and at
full depth distinguishes none of them, and gives no mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dynamax_lm.report.depth_bills import saving_of
from dynamax_lm.report.rows import Row


class Marks(NamedTuple):
    """Whether a row is Pareto-optimal in its comparison group.

    Attributes:
        quality: in net FLOPs saved and the task's metric.
        agreement: in net FLOPs saved and agreement with full depth.
    """

    quality: bool
    agreement: bool


Point = tuple[float, ...]


def optimal(points: Sequence[Point]) -> list[bool]:
    """For each point, higher being better: whether no other point dominates it."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def pareto_marks(group: Sequence[Row]) -> list[Marks]:
    """Marks for the rows of a comparison group, in their order."""
    sign = 1 if all(row.higher_is_better for row in group) else -1
    at_full_depth = [sign * row.full_depth.mean for row in group if row.full_depth]
    quality = _marked(
        [_point(row, row.goodness) for row in group],
        [(0.0, max(at_full_depth))] if at_full_depth else [],
    )
    agreement = _marked(
        [_point(row, row.agreement.mean) if row.agreement else None for row in group],
        [(0.0, 1.0)],
    )
    return [Marks(*pair) for pair in zip(quality, agreement, strict=True)]


def _point(row: Row, value: float) -> Point | None:
    saved = saving_of(row)
    return None if row.kind == "oracle" or saved is None else (saved, value)


def _marked(points: Sequence[Point | None], rivals: Sequence[Point]) -> list[bool]:
    there = [point for point in points if point is not None]
    whole = [*there, *rivals]
    if len(whole) > 1 and len({point[1] for point in whole}) == 1:
        return [False] * len(points)
    marks = iter(optimal(whole))
    return [next(marks) if point is not None else False for point in points]


def _dominates(one: Point, other: Point) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
