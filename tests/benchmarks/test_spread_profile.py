"""The time of spread exits, divided."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks.spread_profile import (
    at_rows,
    measure,
    projections_counted,
    rows_a_step,
    steps_counted,
)
from dynamax_lm.bench.subject import Shape, make_subject
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.decode import Decoding
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from tests.builders import STACKS, never, random_model


def test_rows_are_the_mean_over_steps() -> None:
    assert rows_a_step({(0, 8): 3, (1, 2): 1}) == pytest.approx(26 / 4)


def test_steps_cost_their_layers_and_projections_at_their_rows() -> None:
    steps, projections = {(2, 8): 2, (3, 1): 1}, {8: 2, 3: 1}
    layer, projection = {1: 10.0, 8: 20.0}, {3: 1.0, 8: 3.0}
    seconds = at_rows(steps, projections, layer, projection)
    assert seconds == 2 * 2 * 20.0 + 3 * 10.0 + 2 * 3.0 + 1.0


def test_every_projection_is_counted_by_its_rows() -> None:
    stack = SimpleNamespace(unembed=lambda hidden: hidden)
    with projections_counted(stack) as seen:
        for rows in (3, 1, 3):
            assert stack.unembed(torch.zeros(rows, 2)).shape[0] == rows
    assert seen == {3: 2, 1: 1}


def test_every_step_is_counted_by_its_layers_and_rows() -> None:
    before = Decoding._run
    stack = STACKS["mistral"](random_model("mistral", 4))
    requests = [GenerateRequest((1, 2), 3, never)] * 3
    policy = ExitPolicy((1,), "top_prob", 0.0)
    with torch.inference_mode(), steps_counted() as seen:
        generate(stack, requests, policy=policy, flight=Flight(2))
    assert set(seen) <= {(1, 1), (1, 2)}
    assert sum(rows * count for (_, rows), count in seen.items()) == 9
    assert Decoding._run is before


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
    assert len(found["milliseconds_a_token"]) == 6
    assert all(value > 0 for value in found["layer_milliseconds_by_rows"].values())
    assert 1 <= found["layers_a_token"] <= 8
    projections = found["projections_a_token"]
    assert 1 < projections <= 8 if confidence == "top_prob" else projections == 1
    assert 1 <= found["rows_a_step"] <= 8
    assert set(found["steps_by_rows"]) <= set(range(1, 9))
    assert found["operators"]["full depth"]["products"]["calls"] > 0
