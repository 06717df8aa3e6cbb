"""A prefix that prompts share is run once, and their states are those of whole prompts."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.engine import prefill as module
from dynamax_lm.engine.prefill import SharedPrefixes, prefill
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.engine.sources import ComputedInOrder
from tests.builders import STACKS, VOCAB, Shape, prompts, random_model, shapes
from tests.stacks import step

pytestmark = pytest.mark.usefixtures("no_gradients")


def passes_of(stack: Any) -> list[int]:
    """How many slots each later pass of ``stack`` begins with."""
    ran: list[int] = []
    inner = stack.embed

    def counted(run: Any) -> torch.Tensor:
        ran.append(run.slots.shape[0])
        return inner(run)

    stack.embed = counted
    return ran


@settings(max_examples=25, deadline=None)
@given(shape=shapes(), batches=st.lists(prompts(), min_size=1, max_size=4), data=st.data())
def test_states_are_those_of_whole_prompts(
    shape: Shape, batches: list[list[tuple[int, ...]]], data: st.DataObject
) -> None:
    stack = STACKS[shape.kind](shape.model())
    shared = SharedPrefixes(stack, shortest=2)
    header = tuple(data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=0, max_size=8)))
    for rows in batches:
        whole = [header + row for row in rows]
        ours, theirs = shared.prefill(whole), prefill(stack, whole)
        for _ in range(2):
            torch.testing.assert_close(
                step(stack, ours, len(rows)), step(stack, theirs, len(rows)), rtol=1e-3, atol=1e-4
            )


@settings(max_examples=25, deadline=None)
@given(shape=shapes(), rows=prompts(), most=st.integers(1, 12), depth=st.integers(1, 4))
def test_pieces_of_prompts_leave_the_state_of_whole_ones(
    shape: Shape, rows: list[tuple[int, ...]], most: int, depth: int
) -> None:
    stack = STACKS[shape.kind](shape.model())
    widths: list[int] = []
    inner = stack.embed

    def counted(run: Any) -> torch.Tensor:
        widths.append(run.token_batch.width * len(run.token_batch.rows))
        return inner(run)

    stack.embed = counted
    prompt_exit = PromptExit(min(depth, stack.n_layers))
    with patch.object(module, "TOKENS_AT_ONCE", most):
        ours = prefill(stack, rows, prompt_exit)
    assert max(widths, default=0) <= max(most, len(rows))
    theirs = prefill(stack, rows, prompt_exit)
    for _ in range(2):
        torch.testing.assert_close(
            step(stack, ours, len(rows)), step(stack, theirs, len(rows)), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_shared_prefix_runs_once_in_all_batches(kind: str) -> None:
    stack = STACKS[kind](random_model(kind, 2))
    ran = passes_of(stack)
    shared = SharedPrefixes(stack, shortest=4)
    header = (1, 2, 3, 1, 2, 3)
    for batch in ([(1, 2), (3, 1)], [(2, 2), (3, 3)], [(3, 2)]):
        shared.prefill([(*header, *rest, 0) for rest in batch])
    assert sum(ran) == len(header) + 5 * 2
    shared.prefill([(3, 3, 3, 3, 3, 3, 0)])  # begins otherwise
    assert ran[-1] == 6


def test_prompts_one_at_a_time_share_what_they_begin_with() -> None:
    stack = STACKS["mistral"](random_model("mistral", 2))
    ran = passes_of(stack)
    shared = SharedPrefixes(stack, shortest=4)
    for rest in range(6):
        shared.prefill([(1, 2, 3, 1, 2, 3, rest, 0)])
    assert sum(ran) == 7 + 6 + 5  # the first whole, then the header, and one token of each


@settings(max_examples=40, deadline=None)
@given(shape=shapes(), data=st.data())
def test_batches_that_share_a_prompt_score_as_one_batch(shape: Shape, data: st.DataObject) -> None:
    """However requests are divided into batches, and whatever prompt they have in common."""
    stack = STACKS[shape.kind](shape.model())
    headers = [(), (1, 2) * 17]
    asked = [
        ScoreRequest(data.draw(st.sampled_from(headers)) + prompt, continuation)
        for prompt in data.draw(prompts(max_rows=3))
        for continuation in data.draw(prompts(longest=3))
    ]
    size = data.draw(st.integers(1, len(asked)))
    depth = data.draw(st.integers(1, shape.layers))
    exits = (shape.layers - 1,) if shape.layers > 1 else ()
    policy = ExitPolicy(
        exits, "top_prob", 0.4, prompt_exit=data.draw(st.sampled_from([None, depth]))
    )
    options = {"policy": policy, "reference": True}
    sources = ComputedInOrder()
    batches = [asked[at : at + size] for at in range(0, len(asked), size)]
    ours = [one for some in batches for one in score(stack, some, sources=sources, **options)]
    alone = [score(stack, [one], **options)[0] for one in asked]
    for mine, other in zip(ours, alone, strict=True):
        close = {"abs": 1e-4, "rel": 1e-3}
        assert mine.reference == pytest.approx(other.reference, **close)
        confident = zip(mine.trace.confidence, other.trace.confidence, strict=True)
        if all(a is None or b is None or abs(a - b) < 1e-4 < abs(a - 0.4) for a, b in confident):
            assert mine.log_probabilities == pytest.approx(other.log_probabilities, **close)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_prompt_across_two_batches_runs_once(kind: str) -> None:
    stack = STACKS[kind](random_model(kind, 2))
    ran = passes_of(stack)
    header, sources = (1, 2, 3, 1) * 10, ComputedInOrder()
    asked = [
        ScoreRequest((*header, 2, number, 3), (1, choice))
        for number in range(3)
        for choice in (1, 2, 3, 0)
    ]
    spread = [
        ScoreRequest(one.prompt, (*one.continuation, 1 + place % 3))
        for place, one in enumerate(asked)
    ]
    for at in range(0, 12, 3):
        score(stack, spread[at : at + 3], sources=sources)
    first, shared, others = len(header) + 2, len(header) + 1, 2 * 1
    continuations = 12 * 3
    assert sum(ran) == first + shared + others + continuations


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_of_a_batch_of_different_prompts_only_the_last_is_copied(kind: str) -> None:
    stack = STACKS[kind](random_model(kind, 2))
    taken: list[list[int]] = []
    take = stack.take

    def counted(state: Any, rows: Any) -> Any:
        taken.append(list(rows))
        return take(state, rows)

    stack.take = counted
    ComputedInOrder().prompt_state(stack, [(1, 2, 3), (1, 3), (2, 1)], range(3))
    assert taken == [[2]]
