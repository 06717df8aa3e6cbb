"""No label of the picture of savings covers a marker or another label."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Annotation
from synthetic import GENERATION, Plan, write_run

from dynamax_lm.report import pictures
from dynamax_lm.report.label_places import Box, Label, places
from dynamax_lm.report.load import load
from dynamax_lm.report.rows import comparison_groups, rows_of

INSIDE = Box(0.0, 0.0, 200.0, 100.0)
NUMBERS = st.integers(0, 200).map(float)
LABELS = st.builds(Label, NUMBERS, NUMBERS, st.just(40.0), st.just(10.0), st.booleans())
MARKERS = st.builds(lambda x, y: Box(x - 4, y - 4, x + 4, y + 4), NUMBERS, NUMBERS)


@given(st.lists(LABELS, max_size=40), st.lists(MARKERS, max_size=20))
def test_placed_labels_are_inside_and_over_nothing(
    labels: Sequence[Label], markers: Sequence[Box]
) -> None:
    found = places(labels, markers, INSIDE, 5.0)
    assert len(found) == len(labels)
    boxes = [box for box in found if box is not None]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.overlaps(marker) for box in boxes for marker in markers)
    assert all(box.within(INSIDE) for box in boxes)
    for label, box in zip(labels, found, strict=True):
        assert box is None or abs(box.left - label.x) <= label.width + 9.0
        assert box is None or abs(box.bottom - label.y) <= label.height + 9.0


@pytest.mark.parametrize("above", [False, True])
def test_a_label_alone_is_on_the_side_that_it_prefers(*, above: bool) -> None:
    (box,) = places([Label(100.0, 50.0, 40.0, 10.0, above)], [Box(96, 46, 104, 54)], INSIDE, 5.0)
    assert box is not None
    assert box.bottom > 50.0 if above else box.top < 50.0


@pytest.mark.parametrize("count", [6, 60])
def test_labels_of_many_close_points_are_apart_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    draw = random.Random(0)
    for number in range(count):
        measure = ("top_prob", "margin", "entropy")[number % 3]
        plan = Plan(
            seed=number,
            tasks={"gen": GENERATION},
            threshold=round(0.05 + 0.9 * number / count, 3),
            settings={"confidence": measure},
            right=draw.uniform(0.7, 0.9),
            documents=8,
        )
        write_run(tmp_path / str(number), plan)
    (rows,) = comparison_groups(rows_of(load([tmp_path]).runs))
    figures: list[Any] = []
    drawn = pictures.drawn_picture

    def keep(name: str, title: str, description: str, figure: Any) -> pictures.Picture:
        figures.append(figure)
        return drawn(name, title, description, figure)

    monkeypatch.setattr(pictures, "drawn_picture", keep)
    picture = pictures.trade_off("x", rows)
    assert picture is not None
    (figure,) = figures
    figure.set_dpi(110)
    figure.draw_without_rendering()
    lower = figure.axes[1]
    notes = [one for one in lower.get_children() if isinstance(one, Annotation)]
    boxes = [Box(*one.get_window_extent().extents) for one in notes]
    assert notes
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.within(Box(*lower.bbox.extents)) for box in boxes)
    for row in rows:
        assert row.flops_saved is not None
        assert row.agreement is not None
        x, y = lower.transData.transform((row.flops_saved.mean, row.agreement.mean))
        assert not any(box.overlaps(Box(x - 4, y - 4, x + 4, y + 4)) for box in boxes)
    assert ("have no label" in picture.description) == (count == 60)
