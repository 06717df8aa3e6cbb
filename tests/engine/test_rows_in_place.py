"""Mamba-2's state advanced in place over a few tokens gives what a scan of gathered rows gives."""

from __future__ import annotations

from typing import Any

import pytest

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.decoders import ssd
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.requests import GenerateRequest
from tests.builders import STACKS, never, random_model

pytestmark = pytest.mark.usefixtures("no_gradients")

EXITS = (1, 2, 3)
DECODED = [
    {"skipped_state": "propagate", "policy": ExitPolicy(EXITS, "top_prob", 0.1)},
    {"skipped_state": "recompute", "policy": ExitPolicy(EXITS, "top_prob", 0.1)},
    {"draft_length": 4, "policy": ExitPolicy((2,), "top_prob", 0.0)},
]


@pytest.mark.parametrize("options", DECODED)
def test_answers_are_those_of_a_scan(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = STACKS["mamba2"](random_model("mamba2", 4, seed=6))
    asked = [GenerateRequest((1, 2, 3, number % 5), 6 + 3 * number, never) for number in range(7)]
    calls: list[int] = []
    inner = ssd._continue_rows

    def counted(*given: Any) -> Any:
        calls.append(len(given[2]))
        return inner(*given)

    monkeypatch.setattr(ssd, "_continue_rows", counted)
    found: list[list[GeneratedAnswer]] = []
    for worth in (0, 1 << 40):
        monkeypatch.setattr(ssd, "_WORTH_ROWS", worth)
        found.append(generate(stack, asked, reference=True, flight=Flight(3), **options))
        assert bool(calls) != bool(worth)
        calls.clear()
    for ours, theirs in zip(*found, strict=True):
        assert ours.trace.tokens == theirs.trace.tokens
        assert ours.trace.layers_used == theirs.trace.layers_used
        assert ours.reference == theirs.reference
    depths = {used for one in found[0] for used in one.trace.layers_used}
    assert len(depths) > 1 or "draft_length" in options, "else no token would be pending"
