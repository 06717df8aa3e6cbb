"""What rows of one batch say of each threshold is what running it alone says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoredAnswer, ScoreRequest, score
from dynamax_lm.reuse.reuse_runner import ReuseRunner
from dynamax_lm.reuse.threshold_batching import ThresholdBatcher
from tests.builders import STACKS, Shape, never, prompts, random_model, shapes, uneven_requests
from tests.heads.builders import CLASSIFIERS, mixed_exits
from tests.laws import Tally
from tests.reuse.doors import same_through_both_doors
from tests.reuse.test_threshold_replay import THRESHOLDS, draw_exits, draw_requests, draw_scores
from tests.stacks import Counting

pytestmark = pytest.mark.usefixtures("no_gradients")

NEAR = {"abs": 1e-3, "rel": 1e-3}


def draw_skipped(data: st.DataObject, stack: Any) -> str:
    return data.draw(st.sampled_from(sorted(stack.skipped_states - {"recompute"})))


def draw_grid(data: st.DataObject) -> list[float]:
    grid = st.lists(st.sampled_from(THRESHOLDS), min_size=2, max_size=5, unique=True)
    return data.draw(grid)


def draw_runner(data: st.DataObject) -> ReuseRunner:
    """Room for all thresholds, for some, or for none beside the first."""
    tokens = data.draw(st.sampled_from([0, 3, 8, 999]))
    return ReuseRunner(data.draw(st.sampled_from([0, 9000, 1 << 30])), tokens)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1e-60, 0.3, 0.9, 1 - 1e-12, 1.0]) | st.floats(0, 1),
            st.sampled_from([0.0, 0.9, 1.0, float("nan")]) | st.floats(0, 1, width=32),
        ),
        min_size=1,
    )
)
def test_bars_decide_as_each_threshold_does(pairs: list[tuple[float, float]]) -> None:
    thresholds, sure = [one for one, _ in pairs], torch.tensor([sure for _, sure in pairs])
    apart = [ExitPolicy((1,), threshold=one).exiting(sure)[at] for at, one in enumerate(thresholds)]
    together = ExitPolicy((1,)).exiting(sure, ExitPolicy((1,)).cutoffs(thresholds))
    assert together.tolist() == [bool(one) for one in apart]


def draw_points(
    data: st.DataObject, shape: Shape
) -> Iterator[tuple[Any, ReuseRunner, dict[str, Any]]]:
    """A decoder, a runner that expects the later thresholds, and the options of each threshold."""
    model = shape.model()
    stack = STACKS[shape.kind](model)
    heads, measure, exits = draw_exits(data, shape, model)
    runner, grid = draw_runner(data), draw_grid(data)
    early = data.draw(st.none() | st.integers(1, shape.layers))
    options: dict[str, Any] = {"heads": heads, "skipped_state": draw_skipped(data, stack)}
    options["reference"] = data.draw(st.booleans())
    for number, threshold in enumerate(grid, start=1):
        options["policy"] = ExitPolicy(exits, measure, threshold, prompt_exit=early)
        runner.expect(grid[number:])
        yield stack, runner, options


@settings(max_examples=20)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_rows_answer_as_if_alone(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    asked = draw_requests(data, rows)
    for stack, runner, options in draw_points(data, shape):
        tally = Tally(options["policy"].threshold)
        batched = runner.generate(stack, asked, **options)
        for ours, other in zip(batched, generate(stack, asked, **options), strict=True):
            tally.same(ours.trace, other.trace)
            assert ours.reference == other.reference
            if ours.trace.layers_used == other.trace.layers_used:
                assert ours.trace.tokens == other.trace.tokens
                assert ours.trace.full_depth == other.trace.full_depth
                assert list(ours.trace.confidence) == pytest.approx(
                    list(other.trace.confidence), **NEAR
                )
        tally.check()


def check_references(ours: ScoredAnswer, other: ScoredAnswer) -> None:
    """The same full-depth pass, to the last bit; by definition, tokens of the run itself."""
    if ours.reference is None or other.reference is None:
        assert ours.reference is other.reference
        return
    run = [trace.reference_pass or () for trace in (ours.trace, other.trace)]
    for number, pair in enumerate(zip(ours.reference, other.reference, strict=True)):
        if any(again and again[number] is not None for again in run):
            assert pair[0] == pytest.approx(pair[1], **NEAR)
        else:
            assert pair[0] == pair[1], "the same pass, to the last bit"


@settings(max_examples=20)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_rows_score_as_if_alone(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    asked = draw_scores(data, rows)
    for stack, runner, options in draw_points(data, shape):
        tally = Tally(options["policy"].threshold)
        batched = runner.score(stack, asked, **options)
        for ours, other in zip(batched, score(stack, asked, **options), strict=True):
            tally.same(ours.trace, other.trace)
            assert ours.trace.full_depth == other.trace.full_depth
            check_references(ours, other)
            if ours.trace.layers_used == other.trace.layers_used:
                assert ours.log_probabilities == pytest.approx(other.log_probabilities, **NEAR)
        tally.check()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_every_classifier_keeps_its_rows_apart(kind: str, classifier: str) -> None:
    """None left out, rows that end at different times, and depths that really differ."""
    stack, heads = mixed_exits(kind, classifier)
    asked, scored = uneven_requests()
    runner, depths, grid = ReuseRunner(), set(), (0.3, 0.5, 0.7)
    for number, threshold in enumerate(grid, start=1):
        options: dict[str, Any] = {"policy": ExitPolicy((1, 3, 4, 5), "head", threshold)}
        options |= {"heads": heads, "reference": True}
        runner.expect(grid[number:])
        depths |= same_through_both_doors(runner, stack, asked, scored, **options)
    assert (runner.origins.rows, runner.origins.run) == (3 * 8, 0)
    assert len(depths) > 2, "the exits must really be mixed for this to prove anything"


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_thresholds_run_beside_the_first_run_no_layer_later(kind: str) -> None:
    stack = Counting(STACKS[kind](random_model(kind)))
    asked = [GenerateRequest(row, 5, never, key=str(row)) for row in ((1, 2, 3), (6,))]
    scored = [ScoreRequest((1, 2, 3), (4, 5)), ScoreRequest((6,), (7, 8, 9))]
    runner, grid = ReuseRunner(), (0.1, 0.0, 0.2, 1.0)
    for number, threshold in enumerate(grid, start=1):
        stack.slots = stack.prompt_slots = 0
        runner.expect(grid[number:])
        options: dict[str, Any] = {"policy": ExitPolicy((1, 2, 3), "top_prob", threshold)}
        runner.generate(stack, asked, reference=True, **options)
        runner.score(stack, scored, reference=True, **options)
        assert bool(stack.slots) == (threshold == 0.1)
    assert (runner.origins.rows, runner.origins.run) == (4 * 4, 0)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_rows_that_say_the_same_share_one_reference(kind: str) -> None:
    """Thresholds that all leave at the first exit: compared once, one finds the own answer."""
    stack = Counting(STACKS[kind](random_model(kind)))
    asked = [GenerateRequest((1, 2, 3), 5, never, key="a")]

    def slots(*beside: float, reference: bool = True) -> int:
        runner = ReuseRunner()
        runner.expect(beside)
        stack.slots = stack.prompt_slots = 0
        policy = ExitPolicy((1, 2), "top_prob", 0.0)
        (answer,) = runner.generate(stack, asked, policy=policy, reference=reference)
        assert answer.reference != answer.trace.tokens, "else there is nothing to find"
        return stack.slots - stack.prompt_slots

    answering = slots(reference=False)
    assert answering == 5
    assert slots(1e-9, 1e-8) == slots() + 2 * answering


def test_as_many_thresholds_run_together_as_there_is_room_for() -> None:
    batcher = ThresholdBatcher(tokens_at_once=10, most_bytes=100, to_come=(0.2, 0.3, 0.4))
    assert batcher.together(0.1, 1, 0) == (0.1, 0.2, 0.3, 0.4)
    assert batcher.together(0.1, 5, 1) == (0.1, 0.2)
    assert batcher.together(0.1, 11, 1) == (0.1,)
    assert batcher.together(0.1, 1, 34) == (0.1, 0.2)
    assert batcher.together(0.1, 1, 101) == (0.1,)
    assert batcher.together(0.3, 1, 0) == (0.3, 0.2, 0.4), "no threshold twice"
    assert ThresholdBatcher().together(0.1, 1, 0) == (0.1,)


def test_answers_wait_for_their_threshold_and_question_and_are_given_once() -> None:
    batcher = ThresholdBatcher(10, 100)
    assert batcher.keep("a", (0.1, 0.2), [1, 2, 3, 4]) == [1, 2]
    assert batcher.take("a", 0.1) is None
    assert batcher.take("b", 0.2) is None
    assert batcher.take("a", 0.2) == [3, 4]
    assert batcher.take("a", 0.2) is None


@pytest.mark.parametrize("other", ["measure", "exits", "skipped", "reference", "request"])
def test_another_question_is_run_again(other: str) -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    runner = ReuseRunner()
    runner.expect((0.2,))
    asked = [GenerateRequest((1, 2, 3), 5, never, key="a")]
    options: dict[str, Any] = {"skipped_state": "propagate", "reference": True}
    runner.generate(stack, asked, policy=ExitPolicy((1, 2), "top_prob", 0.1), **options)
    runner.expect(())
    exits = (1, 3) if other == "exits" else (1, 2)
    policy = ExitPolicy(exits, "margin" if other == "measure" else "top_prob", 0.2)
    if other == "request":
        asked = [GenerateRequest((1, 2, 3), 6, never, key="b")]
    if other == "skipped":
        options["skipped_state"] = "copy_kv"
    if other == "reference":
        options["reference"] = False
    before = runner.origins.run
    answers = runner.generate(stack, asked, policy=policy, **options)
    assert runner.origins.run == before + 1
    assert answers == generate(stack, asked, policy=policy, **options)


def test_requests_without_a_key_and_full_depth_run_alone() -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    runner = ReuseRunner()
    runner.expect((0.2, 0.3))
    policy = ExitPolicy((1, 2), "top_prob", 0.1)
    runner.generate(stack, [GenerateRequest((1, 2, 3), 4, never)], policy=policy)
    runner.generate(stack, [GenerateRequest((1, 2, 3), 4, never, key="a")])
    runner.score(stack, [ScoreRequest((1, 2, 3), (4,))])
    assert (runner.origins.rows, runner.origins.run) == (0, 3)
