"""The time of spread exits, divided."""

from __future__ import annotations

import pytest
import torch

from benchmarks.spread_profile import Work, measure, rows_a_step, steps_counted
from dynamax_lm.bench.subject import Shape, make_subject
from dynamax_lm.engine.scheduler import Scheduler


def test_rows_are_the_mean_over_steps() -> None:
    assert rows_a_step({(0, 8): 3, (1, 2): 1}) == pytest.approx(26 / 4)


def test_steps_cost_their_layers_at_their_rows_and_the_projections_that_they_compute() -> None:
    """Segments 0 and 1 end at an exit and at full depth; 2 is the projection alone."""
    steps = {(0, 8): 2, (1, 1): 1, (1, 8): 1, (2, 1): 1}
    layer, projection = {1: 10.0, 8: 20.0}, {1: 1.0, 8: 3.0}
    asked = Work((0, 2, 5), checks_project=True).seconds(steps, layer, projection)
    assert asked == 2 * (2 * 20.0 + 3.0) + 3 * 10.0 + (3 * 20.0 + 3.0) + 1.0
    assert Work((0, 2, 5), checks_project=False).seconds(steps, layer, projection) == asked - 6.0


def test_every_step_is_counted_and_the_scheduler_is_left_as_it_was() -> None:
    before = Scheduler.next
    with steps_counted() as seen:
        scheduler = Scheduler(2, 2)
        for row in range(3):
            scheduler.ready(row, 0)
        while scheduler:
            scheduler.next()
    assert seen == {(0, 2): 1, (0, 1): 1}
    assert Scheduler.next is before


@pytest.mark.parametrize("confidence", ["top_prob", "saturation"])
def test_the_parts_of_a_small_run(confidence: str) -> None:
    with torch.inference_mode():
        subject = make_subject(
            *("dynamax-mistral", Shape(8, 256, 64)),
            dtype=torch.float32,
            device="cpu",
            seed=0,
            rounds=1,
            quick=True,
            products="plain",
        )
        found = measure(subject, flight=16, tokens=4, confidence=confidence)
    parts = found["milliseconds_a_token"]
    assert all(value > 0 for value in parts.values())
    assert 1 <= found["layers_a_token"] <= 8
    projections = found["projections_a_token"]
    assert 1 < projections <= 8 if confidence == "top_prob" else projections == 1
    assert 1 <= found["rows_a_step"] <= 8
    assert set(found["steps_by_rows"]) <= set(range(1, 9))
    assert found["operators"]["full depth"]["products"]["calls"] > 0
