"""Where labels of a picture's points go: beside their points, over no marker and no other label.

Boxes are (left, bottom, right, top), in any one unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two have an area in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def within(self, other: Box) -> bool:
        """Whether no part is outside ``other``."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )


class Label(NamedTuple):
    """A label that is to be placed.

    Attributes:
        x: of its point.
        y: of its point.
        width: of its text.
        height: of its text.
        above: whether a place above its point is better than one below.
    """

    x: float
    y: float
    width: float
    height: float
    above: bool


def places(
    labels: Sequence[Label], markers: Sequence[Box], inside: Box, gap: float
) -> list[Box | None]:
    """A box for each label, or ``None`` where there is no free one near its point.

    Args:
        labels: earlier ones are placed first.
        markers: which no label covers.
        inside: which no label leaves.
        gap: between a point's middle and its label.
    """
    taken, found = list(markers), list[Box | None]()
    for label in labels:
        free = (
            box
            for box in _around(label, gap)
            if box.within(inside) and not any(box.overlaps(other) for other in taken)
        )
        box = next(free, None)
        found.append(box)
        if box is not None:
            taken.append(box)
    return found


def _around(label: Label, gap: float) -> Iterator[Box]:
    """The boxes near a label's point, the best first."""
    wide, high = label.width, label.height
    for far in (gap, 1.8 * gap):
        across = (0.7 * far, -0.7 * far - wide, -wide / 2)
        up = (far, -far - high) if label.above else (-far - high, far)
        offsets = [(x, y) for y in up for x in across]
        offsets += [(far, -high / 2), (-far - wide, -high / 2)]
        for x, y in offsets:
            left, bottom = label.x + x, label.y + y
            yield Box(left, bottom, left + wide, bottom + high)
