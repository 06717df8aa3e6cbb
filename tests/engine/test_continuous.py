"""Continuous batching changes no token, no depth and no reference of any request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.confidence import make_confidence
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.decode import Decoding
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import STACKS, Shape, never, prompts, random_model, shapes
from tests.laws import Tally, draw_policy, draw_skipped, draw_uneven

pytestmark = pytest.mark.usefixtures("no_gradients")


@settings(max_examples=25, deadline=None)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_rows_in_flight_answer_as_they_do_alone(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    stack = STACKS[shape.kind](shape.model())
    policy = draw_policy(data, shape.layers)
    skipped = draw_skipped(data, stack)
    requests = draw_uneven(data, rows, 7, 9)
    batch_size = data.draw(st.integers(1, 3))
    options = {"policy": policy, "skipped_state": skipped, "reference": True}
    alone = [generate(stack, [one], **options)[0] for one in requests]  # type: ignore[arg-type]
    seen: dict[int, GeneratedAnswer] = {}

    def note(some: Mapping[int, GeneratedAnswer]) -> None:
        assert not set(some) & set(seen)
        seen.update(some)

    together = generate(
        stack,
        requests,
        **options,  # type: ignore[arg-type]
        flight=Flight(batch_size, data.draw(st.integers(1, 6))),
        on_answers=note,
    )
    assert together == [seen[number] for number in range(len(requests))]
    tally = Tally(policy.threshold)
    for ours, other in zip(together, alone, strict=True):
        excluded = tally.excluded
        tally.same(ours.trace, other.trace)
        if tally.excluded == excluded:
            assert ours.reference == other.reference
            assert ours.trace.full_depth == other.trace.full_depth
    tally.check()


@settings(max_examples=15, deadline=None)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_a_row_that_is_put_is_the_row_that_was_taken(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    stack = STACKS[shape.kind](shape.model())
    source, pool = prefill(stack, rows), prefill(stack, [(1, 2, 3, 1, 2, 3, 2)] * 6)
    places = data.draw(st.permutations(range(6)))[: len(rows)]
    stack.put(pool, places, source, range(len(rows)))

    def step(state: object, numbers: list[int], token: int) -> torch.Tensor:
        token_batch = TokenBatch.of([[token]] * len(numbers), numbers, stack.device)
        run = stack.begin(state, token_batch, "propagate")
        hidden = stack.embed(run)
        for layer in range(stack.n_layers):
            hidden = stack.layer(layer, hidden, run)
        stack.end(state, run)
        return hidden

    for token in (1, 0, 2):
        ours, theirs = step(pool, list(places), token), step(source, list(range(len(rows))), token)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_states_of_finished_rows_are_limited_by_memory() -> None:
    """With little memory for states, no more rows are in flight than a step has."""
    stack = STACKS["mistral"](random_model("mistral", 4))
    held: list[int] = []
    made = stack.new_state

    def counted(batch: int) -> object:
        held.append(batch)
        return made(batch)

    stack.new_state = counted  # type: ignore[method-assign]
    requests = [GenerateRequest((1, 2), 3, never)] * 12
    policy = ExitPolicy((2,), "top_prob", 0.5)
    generate(stack, requests, policy=policy, flight=Flight(2))
    assert max(held) == 8
    held.clear()
    generate(stack, requests, policy=policy, flight=Flight(2, state_bytes=1))
    assert max(held) == 2
    held.clear()
    generate(stack, requests, policy=policy, flight=Flight(2, 5, 1))
    assert max(held) == 5


def test_a_step_of_rows_between_exits_runs_no_layer_twice() -> None:
    """Every token runs each of its layers once, whatever rows it shares them with."""
    stack = STACKS["mistral"](random_model("mistral", 6))
    ran = [0] * 6
    inner = stack.layer

    def counted(index: int, hidden: torch.Tensor, run: object) -> torch.Tensor:
        ran[index] += hidden.shape[0]
        return inner(index, hidden, run)  # type: ignore[arg-type]

    stack.layer = counted  # type: ignore[method-assign]
    requests = [GenerateRequest((number, 1), 1 + number, never) for number in range(4)]
    policy = ExitPolicy((2, 4), "top_prob", 0.3)
    answers = generate(stack, requests, policy=policy, flight=Flight(2))
    used = [depth for answer in answers for depth in answer.trace.layers_used]
    prompt = len(requests)  # one prompt token of each runs all layers before the first step
    assert ran == [prompt + sum(depth > layer for depth in used) for layer in range(6)]
    assert all(above <= below for below, above in pairwise(ran))


def test_patience_starts_anew_with_each_token() -> None:
    """What a measure keeps of an earlier token at the same index does not count."""
    measure = make_confidence("patience", tokens=3, exits=2)

    class One:
        target = trained = emission = hidden = torch.empty(0)
        index = torch.tensor([1])

        def __init__(self, exit: int, token: int) -> None:
            self.exit = exit
            self.logits = torch.nn.functional.one_hot(torch.tensor([token]), 4).float()

    assert measure.ask(One(0, 2)).tolist() == [0.0]
    assert measure.ask(One(1, 2)).tolist() == [1.0]
    assert measure.ask(One(0, 2)).tolist() == [0.0]
    assert measure.ask(One(1, 3)).tolist() == [0.0]


def test_threshold_of_a_row_replaces_the_policys() -> None:
    stack = STACKS["mistral"](random_model("mistral", 4))
    requests = [GenerateRequest((1, 2), 4, never)] * 2
    rows = [Progress(), Progress()]
    state = prefill(stack, [one.prompt for one in requests])
    policy = ExitPolicy((2,), "top_prob", 0.5)
    decoding = Decoding(stack, state, 2, policy, "propagate", None, 2)
    for row, threshold in enumerate((0.0, 1.0)):
        decoding.start(row, requests[row], rows[row], threshold)
    finished = []
    while decoding:
        finished += decoding.step()
    assert sorted(finished) == [0, 1]
    assert rows[0].layers_used == [2] * 4
    assert rows[1].layers_used == [4] * 4


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_many_pending_tokens_run_before_the_next(kind: str) -> None:
    """More than 64 exits in a row: what was generated is what scoring emits."""
    stack = STACKS[kind](random_model(kind, 4, seed=5))
    requests = [GenerateRequest((1, 2, 3), 80, never), GenerateRequest((2,), 70, never)]
    policy = ExitPolicy((2, 3), "top_prob", 0.0)
    for skipped in sorted(stack.skipped_states):
        answers = generate(
            stack, requests, policy=policy, skipped_state=skipped, flight=Flight(1, 2)
        )
        scored = score(
            stack,
            [
                ScoreRequest(one.prompt, answer.trace.tokens)
                for one, answer in zip(requests, answers, strict=True)
            ],
            policy=policy,
            skipped_state=skipped,
        )
        for answer, again in zip(answers, scored, strict=True):
            assert answer.trace.layers_used == (2,) * len(answer.trace)
            assert answer.trace.emitted == again.trace.emitted, skipped


def test_one_long_answer_holds_up_no_others() -> None:
    """Without a reference, requests enter whatever answers of earlier batches are unfinished."""
    stack = STACKS["mistral"](random_model("mistral", 3))
    requests = [
        GenerateRequest((1 + number % 5, 2), 40 if number % 4 == 0 else 1, never)
        for number in range(32)
    ]
    steps = [0]
    inner = stack.begin

    def counted(*given: object) -> object:
        steps[0] += 1
        return inner(*given)  # type: ignore[arg-type]

    stack.begin = counted  # type: ignore[method-assign]
    generate(stack, requests, flight=Flight(4))
    tokens = 8 * 40 + 24
    assert steps[0] <= tokens / 4 + 8 + 45  # full steps, prefills, and the end of the last answers


@dataclass(frozen=True, slots=True)
class Drawn(ExitPolicy):
    """Two of three tokens exit, at random."""

    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def exiting(
        self, confidence: torch.Tensor, cutoffs: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(n,) bool."""
        return torch.rand(confidence.shape, generator=self.random) < 2 / 3


@pytest.mark.parametrize("skipped", ["propagate", "recompute"])
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_step_reads_its_layers_once_whatever_is_pending(kind: str, skipped: str) -> None:
    """State of exited tokens is computed with the next rows that run those layers, not on its own.

    Every step runs each layer of one segment in one call, and checks its exit by one projection for
    all its rows, however many exited tokens are pending in them; or it is one projection alone.
    """
    stack = STACKS[kind](random_model(kind, 6))
    exits = (2, 4)
    segments = {(0, 1), (2, 3), (4, 5)}
    requests = [GenerateRequest((1 + number, 2), 9, never) for number in range(6)]
    rows = [Progress() for _ in requests]
    state = prefill(stack, [one.prompt for one in requests])
    decoding = Decoding(stack, state, 6, Drawn(exits, "top_prob", 0.5), skipped, None, 3)
    for row, request in enumerate(requests):
        decoding.start(row, request, rows[row])
    calls: list[int] = []
    projections: list[int] = []
    together: list[int] = []
    layer, unembed = stack.layer, stack.unembed

    def run_layer(index: int, hidden: torch.Tensor, run: object) -> torch.Tensor:
        calls.append(index)
        batch = run.token_batch  # type: ignore[attr-defined]
        together.append(sum(batch.lengths) - len(batch.rows))
        return layer(index, hidden, run)  # type: ignore[arg-type]

    def project(hidden: torch.Tensor) -> torch.Tensor:
        projections.append(hidden.shape[0])
        return unembed(hidden)

    stack.layer = run_layer  # type: ignore[method-assign]
    stack.unembed = project  # type: ignore[method-assign]
    while decoding:
        calls.clear()
        projections.clear()
        decoding.step()
        waits = calls == [4, 5] and not projections  # for rows that begin their next token
        assert waits or len(projections) == 1
        assert tuple(calls) in segments or not calls
    assert max(together) > 0, "else no token was pending in any step"
    assert {depth for row in rows for depth in row.layers_used} == {2, 4, 6}


@pytest.mark.parametrize("confidence", ["saturation", "top_prob"])
def test_tokens_that_no_check_has_projected_are_emitted_together(confidence: str) -> None:
    """One product a full group in place of one an exit; what a check has projected is used."""
    stack = STACKS["mistral"](random_model("mistral", 6))
    sizes: list[int] = []
    unembed = stack.unembed

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(hidden.shape[0])
        return unembed(hidden)

    stack.unembed = counted  # type: ignore[method-assign]
    requests = [GenerateRequest((1, 2 + number), 12, never) for number in range(16)]
    policy = Drawn((1, 2, 3, 4, 5), confidence, 0.5)
    answers = generate(stack, requests, policy=policy, flight=Flight(4, 16))
    depths = [layers for answer in answers for layers in answer.trace.layers_used]
    assert len(set(depths)) > 2, "the exits must really be mixed for this to prove anything"
    tokens = sum(len(answer.trace.tokens) for answer in answers)
    if confidence == "saturation":
        assert sum(sizes) == tokens
        assert max(sizes) == 4
        assert sizes.count(4) > 0.8 * len(sizes)
    else:
        asked = [sum(layers >= exit for layers in depths) for exit in policy.exit_layers]
        assert sum(sizes) == sum(asked) + depths.count(6)
