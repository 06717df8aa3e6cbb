"""The count of lossless texts that differ, and the gap of logits where they first do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import near_ties
from benchmarks.near_ties import KINDS, Case, Logits, compare, random_cases
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.requests import GenerateRequest
from tests.builders import STACKS, never, random_model

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_differs_in_float32(kind: str) -> None:
    found = compare(random_cases(kind, 8, torch.float32))
    assert (found.texts, found.gaps) == (8, [])
    assert found.tokens == 8 * 24


def test_the_gap_is_that_of_the_first_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lossless text that takes another token once, whose logits are known."""
    stack = STACKS["mistral"](random_model("mistral"))
    request = GenerateRequest((1, 2, 3), 6, never)
    logits = Logits()
    original: Any = near_ties.generate
    original(stack, [GenerateRequest((1, 2, 3), 6, never, logits)])
    tokens = [int(row.argmax()) for row in logits.seen]
    second = int(logits.seen[2].topk(2).indices[1])

    def generate(some: Any, requests: Any, **options: Any) -> Any:
        if not options:
            return original(some, requests)

        def other(answer: Any, row: torch.Tensor) -> int:
            return second if len(answer) == 2 else int(row.argmax(-1))

        return original(some, [GenerateRequest((1, 2, 3), 6, never, other)])

    monkeypatch.setattr(near_ties, "generate", generate)
    found = compare([Case(stack, [request], ExitPolicy((2,), "top_prob", 0.0), 2)])
    assert (found.texts, found.tokens) == (1, 3)
    assert found.gaps == [pytest.approx(float(logits.seen[2][tokens[2]] - logits.seen[2][second]))]
