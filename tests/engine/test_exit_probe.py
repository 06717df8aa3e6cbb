"""The exit probe says of every token what a run that could leave at that exit says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamax_lm.core.exit_view import View
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.exit_probe import ConfidenceGrid, HiddenStates, TokenGrid, probe_exits
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from tests.builders import STACKS, Shape, never, prompts, random_model, shapes, whole_forward

pytestmark = pytest.mark.usefixtures("no_gradients")


@settings(max_examples=20, deadline=None)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_every_exit_emits_what_a_model_that_leaves_there_emits(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """The prompt ran at full depth, so that the first token of an answer has the probe's state."""
    stack = STACKS[shape.kind](shape.model())
    exits = sorted(data.draw(st.sets(st.integers(1, shape.layers - 1), min_size=1)))
    measure = data.draw(st.sampled_from(["top_prob", "margin", "entropy"]))
    token_batch = TokenBatch.of(rows, range(len(rows)), stack.device)
    count = sum(map(len, rows))
    tokens, confidence = TokenGrid(count, len(exits)), ConfidenceGrid(measure, count, len(exits))
    probe_exits(stack, stack.new_state(len(rows)), token_batch, exits, [tokens, confidence])
    last = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
    requests = [GenerateRequest(row, 1, never) for row in rows]
    for place, exit in enumerate(exits):
        answers = generate(stack, requests, policy=ExitPolicy((exit,), measure, 0.0))
        assert tokens.tokens[last, place].tolist() == [one.trace.tokens[0] for one in answers]
        told = [one.trace.confidence[0] for one in answers]
        assert confidence.confidence[last, place].tolist() == pytest.approx(told, abs=1e-4)
    full = [one.trace.tokens[0] for one in generate(stack, requests)]
    assert tokens.tokens[last, -1].tolist() == full


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_hidden_states_are_transformers(kind: str) -> None:
    model = random_model(kind, 4)
    stack, sequence = STACKS[kind](model), [3, 1, 4, 1, 5, 9, 2]
    kept = torch.tensor([3, 6])
    states = HiddenStates(kept, len(sequence), 2)
    batch = TokenBatch.of([sequence], [0], stack.device)
    probe_exits(stack, stack.new_state(1), batch, [1, 3], [states])
    assert len(states.hidden) == 3
    for number, token in enumerate(kept.tolist()):
        _, layers = whole_forward(model, sequence[: token + 1])
        for ours, layer in zip(states.hidden, (1, 3, 4), strict=True):
            theirs = layers[layer - 1]
            torch.testing.assert_close(ours[number : number + 1], theirs, rtol=1e-4, atol=1e-5)


class Order:
    """Which tokens each exit saw, in the order of the calls; full depth is exit -1."""

    def __init__(self) -> None:
        self.seen: dict[int, list[int]] = {}

    def on_exit(self, view: View) -> None:
        self.seen.setdefault(view.exit, []).extend(view.index.tolist())

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Any]) -> None:
        assert logits() is logits(), "one projection serves all observers"
        self.seen.setdefault(-1, []).extend(index.tolist())


@pytest.mark.usefixtures("narrow_slices")
def test_every_exit_sees_every_token_once_and_in_order() -> None:
    stack, order = STACKS["mistral"](random_model("mistral", 4)), Order()
    batch = TokenBatch.of([[1, 2, 3, 4, 5], [6, 7]], [0, 1], stack.device)
    probe_exits(stack, stack.new_state(2), batch, [1, 2], [order])
    assert order.seen == {exit: list(range(7)) for exit in (0, 1, -1)}
