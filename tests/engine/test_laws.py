"""The laws of the engine, over random architectures, measures, thresholds and batches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.core.trace import AnswerTrace
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import (
    CONFIDENCES,
    SKIPPED,
    STACKS,
    Shape,
    never,
    prompts,
    random_model,
    shallow,
    shapes,
)
from tests.laws import (
    THRESHOLDS,
    Ignore,
    Tally,
    ask,
    depths_of,
    draw_policy,
    draw_skipped,
    goes_the_same_way_in_scoring,
    neighbours_do_not_matter,
    rows_that_enter,
)

pytestmark = pytest.mark.usefixtures("no_gradients")


def by_transformers(model: Any, row: tuple[int, ...], new: int = 6) -> tuple[int, ...]:
    """What transformers' own ``generate`` answers."""
    ids = torch.tensor([row])
    whole = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(whole[0, len(row) :].tolist())


@settings(max_examples=25)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_leaving_always_at_a_layer_is_a_shallower_model(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 3, against transformers' own generate and forward on a model of k layers."""
    model = shape.model()
    stack = STACKS[shape.kind](model)
    layers = data.draw(st.integers(1, shape.layers - 1))
    skipped = draw_skipped(data, stack)
    policy = ExitPolicy((layers,), "top_prob", 0.0)
    cut = shallow(model, layers)
    answers = generate(stack, ask(rows), policy=policy, skipped_state=skipped)
    for row, answer in zip(rows, answers, strict=True):
        assert answer.trace.tokens == by_transformers(cut, row)
        assert set(answer.trace.layers_used) == {layers}
    requests = [ScoreRequest(row, (7, 3, 9)) for row in rows]
    for request, scored in zip(
        requests, score(stack, requests, policy=policy, skipped_state=skipped), strict=True
    ):
        ids = torch.tensor([request.prompt + request.continuation])
        log_probs = cut(ids, use_cache=False).logits[0].float().log_softmax(-1)
        places = range(len(request.prompt) - 1, ids.shape[1] - 1)
        expected_lp = [log_probs[p, ids[0, p + 1]].item() for p in places]
        assert scored.log_probabilities == pytest.approx(expected_lp, abs=1e-3)


@settings(max_examples=25)
@given(shape=shapes(), rows=prompts())
def test_full_depth_is_transformers_generate(shape: Shape, rows: list[tuple[int, ...]]) -> None:
    model = shape.model()
    stack = STACKS[shape.kind](model)
    for row, answer in zip(rows, generate(stack, ask(rows), reference=True), strict=True):
        assert answer.trace.tokens == by_transformers(model, row)
        assert answer.reference == answer.trace.tokens == answer.trace.full_depth


@settings(max_examples=60)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_generating_then_scoring_goes_the_same_way(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 4: one parallel pass repeats the step-by-step run, for every state and measure."""
    stack = STACKS[shape.kind](shape.model())
    policy, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    options = {"policy": policy, "skipped_state": skipped, "reference": True}
    goes_the_same_way_in_scoring(stack, ask(rows), **options)


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_every_state_and_measure_scores_as_it_generates(
    kind: str, skipped: str, confidence: str
) -> None:
    """Law 4 with none left out, at the thresholds that split the tokens most evenly."""
    stack = STACKS[kind](random_model(kind, 6, seed=3))
    rows = [(1, 5, 9, 2, 2, 7), (2,), (8, 8, 3, 1), (11, 4)]
    exits = (1, 3, 4, 5)
    depths: set[int] = set()
    for threshold in (0.1, 0.2, 0.33, 0.5, 0.7, 0.9):
        policy = ExitPolicy(exits, confidence, threshold)
        options = {"policy": policy, "skipped_state": skipped}
        depths |= depths_of(goes_the_same_way_in_scoring(stack, ask(rows, 12), **options))
    assert len(depths) > 2, "the exits must really be mixed for this to prove anything"


@settings(max_examples=30)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_scores_are_those_of_single_steps(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 4 for log-probabilities: a continuation scored token by token, or at once."""
    stack = STACKS[shape.kind](shape.model())
    policy, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    token = st.integers(0, 60)
    wanted = [tuple(data.draw(st.lists(token, min_size=1, max_size=5))) for _ in rows]
    requests = [ScoreRequest(row, answer) for row, answer in zip(rows, wanted, strict=True)]
    scored = score(stack, requests, policy=policy, skipped_state=skipped)
    tally = Tally(policy.threshold)
    for request, at_once in zip(requests, scored, strict=True):
        stepwise, log_probabilities = force(stack, request, policy, skipped)
        tally.same(stepwise, at_once.trace)
        if stepwise.layers_used == at_once.trace.layers_used:
            assert at_once.log_probabilities == pytest.approx(log_probabilities, abs=1e-3)
    tally.check()


def force(
    stack: Any, request: ScoreRequest, policy: ExitPolicy, skipped: str
) -> tuple[AnswerTrace, list[float]]:
    """Feed a continuation token by token, whatever the exits emit; with its log-probabilities."""
    emitted: list[int] = []
    log_probabilities: list[float] = []

    class Forced:
        """Emits the continuation and notes what the exit would have said."""

        def __call__(self, answer: Any, logits: torch.Tensor) -> int:
            wanted = request.continuation[len(answer)]
            del emitted[len(answer) :], log_probabilities[len(answer) :]
            emitted.append(int(logits.argmax(-1)))
            log_probabilities.append(float(logits[0].float().log_softmax(-1)[wanted]))
            return wanted

    assume(policy.confidence != "oracle")  # the oracle compares emissions, which are forced here
    asked = GenerateRequest(request.prompt, len(request.continuation), never, Forced())
    trace = generate(stack, [asked], policy=policy, skipped_state=skipped)[0].trace
    seen = AnswerTrace(
        trace.prompt_tokens,
        trace.tokens,
        tuple(emitted),
        trace.layers_used,
        trace.confidence,
    )
    return seen, log_probabilities


@settings(max_examples=30)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_every_layer_has_seen_every_token(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 5: after each step, unless the setting says freeze."""
    stack = STACKS[shape.kind](shape.model())
    policy, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    assume(policy.confidence != "oracle")
    state = prefill(stack, rows)
    above = [0] * len(rows)
    for step in range(4):
        token_batch = TokenBatch.of([[step + 1]] * len(rows), range(len(rows)), stack.device)
        depths = run_token_batch(
            stack, state, token_batch, Ignore(), policy=policy, skipped_state=skipped
        )
        reached = depths.layers_used.tolist()
        above = [seen + (used == shape.layers) for seen, used in zip(above, reached, strict=True)]
        everything = [len(row) - 1 + step + 1 for row in rows]
        last = [len(row) - 1 + seen for row, seen in zip(rows, above, strict=True)]
        for layer in range(shape.layers):
            if skipped == "recompute":
                waits = [state.pending.missing(row, layer) for row in range(len(rows))]
                seen = zip(state.seen(layer), waits, strict=True)
                assert [tokens + waiting for tokens, waiting in seen] == everything
            elif skipped != "freeze":
                assert state.seen(layer) == everything
        assert state.seen(0) == everything
        if skipped == "freeze":
            assert state.seen(shape.layers - 1) == last


@settings(max_examples=40)
@given(shape=shapes(), rows=prompts(min_rows=2, max_rows=5), data=st.data())
def test_neighbours_and_padding_do_not_matter(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 6, for both doors; rows end at different lengths."""
    stack = STACKS[shape.kind](shape.model())
    policy, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    requests = [GenerateRequest(row, data.draw(st.integers(1, 7)), never) for row in rows]
    options = {"policy": policy, "skipped_state": skipped, "reference": True}
    neighbours_do_not_matter(stack, requests, **options)


@settings(max_examples=30)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_threshold_zero_leaves_first_and_one_never(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    stack = STACKS[shape.kind](shape.model())
    drawn, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    first = ExitPolicy(drawn.exit_layers, drawn.confidence, 0.0)
    never_leaves = ExitPolicy(drawn.exit_layers, drawn.confidence, 1.0)
    for answer in generate(stack, ask(rows), policy=first, skipped_state=skipped):
        assert set(answer.trace.layers_used) == {drawn.exit_layers[0]}
    full = generate(stack, ask(rows))
    for answer, plain in zip(
        generate(stack, ask(rows), policy=never_leaves, skipped_state=skipped), full, strict=True
    ):
        assert set(answer.trace.layers_used) == {shape.layers}
        assert answer.trace.tokens == plain.trace.tokens
        assert all(value is not None for value in answer.trace.confidence)


@settings(max_examples=40)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_a_lower_threshold_never_leaves_a_first_step_later(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 7 where confidences are given: nothing has left yet at an answer's first token."""
    stack = STACKS[shape.kind](shape.model())
    drawn, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    requests = [ScoreRequest(row, (4,)) for row in rows]
    depths = []
    for threshold in THRESHOLDS:
        policy = ExitPolicy(drawn.exit_layers, drawn.confidence, threshold)
        scored = score(stack, requests, policy=policy, skipped_state=skipped)
        depths.append([answer.trace.layers_used[0] for answer in scored])
    for lower, higher in pairwise(depths):
        assert all(a <= b for a, b in zip(lower, higher, strict=True))


def run_for(trace: AnswerTrace, skipped: str) -> list[int]:
    """Layers run for each token; under recompute, with those that it caught up."""
    used = list(trace.layers_used)
    if skipped != "recompute":
        return used
    return [max(used[token:]) for token in range(len(used))]


@settings(max_examples=40)
@given(shape=shapes(), rows=prompts(min_rows=2), data=st.data())
def test_only_rows_still_alive_enter_a_layer(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 8: no "compute, then mask", in generation or in scoring."""
    stack = STACKS[shape.kind](shape.model())
    policy, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    assume(policy.confidence != "oracle")  # its exact twin runs every layer, and is not billed
    body = max(len(row) for row in rows) - 1
    with rows_that_enter(stack, shape.kind) as counts:
        answers = generate(stack, ask(rows), policy=policy, skipped_state=skipped)
    depths = [used for answer in answers for used in run_for(answer.trace, skipped)]
    prefilled = body * len(rows)
    assert counts == [
        prefilled + sum(used > layer for used in depths) for layer in range(shape.layers)
    ]
    requests = [ScoreRequest(row, (3, 8, 1, 9)) for row in dict.fromkeys(rows)]
    body = max(len(request.prompt) for request in requests) - 1
    with rows_that_enter(stack, shape.kind) as counts:
        scored = score(stack, requests, policy=policy, skipped_state=skipped)
    depths = [used for answer in scored for used in run_for(answer.trace, skipped)]
    prefilled = body * len(requests)
    assert counts == [
        prefilled + sum(used > layer for used in depths) for layer in range(shape.layers)
    ]


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_the_oracle_agrees_wherever_it_leaves(kind: str, skipped: str) -> None:
    """Where the oracle leaves, its token is the exact state's; a ceiling for every measure."""
    stack = STACKS[kind](random_model(kind, 6))
    rows = [(1, 5, 9), (2,), (8, 8, 3, 1)]
    policy = ExitPolicy((1, 2, 3, 4, 5), "oracle", 0.5)
    requests = [ScoreRequest(row, tuple(range(10, 40))) for row in rows]
    left = 0
    for answer in score(stack, requests, policy=policy, skipped_state=skipped, reference=True):
        for row in answer.trace.rows():
            if row.layers_used < 6:
                left += 1
                assert row.emitted == row.full_depth
    assert left > 0


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_requests_that_share_a_prompt_score_as_if_alone(kind: str) -> None:
    stack = STACKS[kind](random_model(kind))
    policy = ExitPolicy((1, 2, 3), "top_prob", 0.3)
    options = [(4,), (9,), (4, 7), (4, 8), (9, 1, 2)]
    requests = [ScoreRequest((1, 2, 3), option) for option in options]
    together = score(stack, requests, policy=policy, reference=True)
    for request, answer in zip(requests, together, strict=True):
        alone = score(stack, [request], policy=policy, reference=True)[0]
        assert answer.trace.layers_used == alone.trace.layers_used
        assert answer.trace.emitted == alone.trace.emitted
        assert answer.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-5)
        assert answer.reference == pytest.approx(alone.reference, abs=1e-5)


@settings(max_examples=30)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_the_reference_is_the_full_depth_answer(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """The short cut (one parallel pass, then on from the first disagreement) changes nothing."""
    stack = STACKS[shape.kind](shape.model())
    policy, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    stop = data.draw(st.integers(0, 60))
    requests = [GenerateRequest(row, 7, lambda answer: answer[-1] == stop) for row in rows]
    answers = generate(stack, requests, policy=policy, skipped_state=skipped, reference=True)
    for answer, full in zip(answers, generate(stack, requests), strict=True):
        assert answer.reference == full.trace.tokens
        if answer.trace.agreeing == len(answer.trace):
            assert answer.trace.tokens == full.trace.tokens
