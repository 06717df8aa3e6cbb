"""What one full-depth pass says of a threshold is what running it gives, at every point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.reuse.reuse_runner import ReuseRunner
from tests.builders import STACKS, Shape, never, prompts, random_model, shapes, uneven_requests
from tests.heads.builders import CLASSIFIERS, heads_of, kinds, mixed_exits
from tests.laws import Tally
from tests.reuse.doors import same_through_both_doors
from tests.stacks import Counting

pytestmark = pytest.mark.usefixtures("no_gradients")

THRESHOLDS = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0]
MEASURES = ["top_prob", "margin", "entropy", "saturation", "patience", "oracle", "head", "head"]
MEASURES += ["top_prob|rank:2", "margin|shortlist:9"]


def options_of(policy: ExitPolicy, heads: Any, reference: bool = True) -> dict[str, Any]:
    return {
        "policy": policy,
        "heads": heads,
        "skipped_state": "recompute",
        "reference": reference,
    }


def draw_exits(data: st.DataObject, shape: Shape, model: Any) -> tuple[Any, str, tuple[int, ...]]:
    """Heads or none, a measure, and exits."""
    exits = tuple(sorted(data.draw(st.sets(st.integers(1, shape.layers - 1), min_size=1))))
    measure = data.draw(st.sampled_from([m for m in MEASURES if m != "patience" or exits[1:]]))
    heads = None
    if measure == "head" or data.draw(st.booleans()):
        options = data.draw(kinds(model.config.hidden_size))
        heads = heads_of(model, exits, data.draw(st.integers(0, 99)), **options)
    return heads, measure, exits


def draw_requests(data: st.DataObject, rows: list[tuple[int, ...]]) -> list[GenerateRequest]:
    """Answers of different lengths, some of which stop by themselves."""
    stop = data.draw(st.sampled_from([never, lambda answer: answer[-1] % 5 == 0]))
    return [
        GenerateRequest(row, data.draw(st.integers(1, 8)), stop, key=f"{number}")
        for number, row in enumerate(rows)
    ]


def draw_scores(data: st.DataObject, rows: list[tuple[int, ...]]) -> list[ScoreRequest]:
    """Two continuations of each row, which differ in their last token or in their lengths."""
    length = st.integers(1, 5)
    return [
        ScoreRequest(row, (*range(9, 9 + data.draw(length)), last))
        for row in rows
        for last in (3, 4)
    ]


class Trial(NamedTuple):
    """One threshold of a random model, heads and exits; all thresholds share the runner."""

    stack: Any
    runner: ReuseRunner
    options: dict[str, Any]
    tally: Tally


def trials(shape: Shape, data: st.DataObject) -> Iterator[Trial]:
    """Some thresholds, each of whose tallies is checked when it is done."""
    model = shape.model()
    stack = STACKS[shape.kind](model)
    heads, measure, exits = draw_exits(data, shape, model)
    runner = ReuseRunner(data.draw(st.sampled_from([0, 1 << 30])))
    for threshold in data.draw(st.lists(st.sampled_from(THRESHOLDS), min_size=2, max_size=4)):
        options = options_of(ExitPolicy(exits, measure, threshold), heads, data.draw(st.booleans()))
        trial = Trial(stack, runner, options, Tally(threshold))
        yield trial
        trial.tally.check()


@settings(max_examples=15)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_scores_follow_from_one_pass(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    asked = draw_scores(data, rows)
    for stack, runner, options, tally in trials(shape, data):
        derived = runner.score(stack, asked, **options)
        for ours, other in zip(derived, score(stack, asked, **options), strict=True):
            tally.same(ours.trace, other.trace)
            assert ours.trace.full_depth == other.trace.full_depth
            if ours.trace.layers_used == other.trace.layers_used:
                near = {"abs": 1e-3, "rel": 1e-3}
                assert ours.log_probabilities == pytest.approx(other.log_probabilities, **near)
                assert (ours.reference is None) == (other.reference is None)
                if ours.reference is not None:
                    assert ours.reference == pytest.approx(other.reference, **near)
                for a, b in zip(ours.trace.confidence, other.trace.confidence, strict=True):
                    assert a == pytest.approx(b, **near)


@settings(max_examples=15)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_answers_follow_up_to_the_first_disagreement(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    asked = draw_requests(data, rows)
    for stack, runner, options, tally in trials(shape, data):
        derived = runner.generate(stack, asked, **options)
        for ours, other in zip(derived, generate(stack, asked, **options), strict=True):
            tally.same(ours.trace, other.trace)
            assert ours.reference == other.reference
            if ours.trace.layers_used == other.trace.layers_used:
                assert ours.trace.tokens == other.trace.tokens
                assert ours.trace.full_depth == other.trace.full_depth


@pytest.mark.usefixtures("narrow_slices")
@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_every_classifier_follows(kind: str, classifier: str) -> None:
    """None left out, rows that end at different times, slices that cut rows, mixed exits."""
    stack, heads = mixed_exits(kind, classifier)
    asked, scored = uneven_requests()
    runner, depths = ReuseRunner(), set()
    for threshold in (0.3, 0.5, 0.7):
        options = options_of(ExitPolicy((1, 3, 4, 5), "head", threshold), heads)
        depths |= same_through_both_doors(runner, stack, asked, scored, **options)
    assert runner.origins.run == 0
    assert runner.origins.partly > 0
    assert len(depths) > 2, "the exits must really be mixed for this to prove anything"


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("measure", ["top_prob", "patience", "saturation", "oracle", "head"])
def test_further_thresholds_run_no_layer_for_scores(kind: str, measure: str) -> None:
    model = random_model(kind)
    stack = Counting(STACKS[kind](model))
    heads = heads_of(model, (1, 2, 3), 1, classifier="mamba")
    asked = [ScoreRequest((1, 2, 3), (4, 5)), ScoreRequest((6,), (7, 8, 9))]
    runner = ReuseRunner()
    for threshold in (0.5, 0.0, 0.7, 1.0):
        stack.slots = 0
        options = options_of(ExitPolicy((1, 2, 3), measure, threshold), heads)
        runner.score(stack, asked, **options)
        assert bool(stack.slots) == (threshold == 0.5)
    assert (runner.origins.derived, runner.origins.run) == (8, 0)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_an_answer_that_agrees_runs_no_layer_either(kind: str) -> None:
    stack = Counting(STACKS[kind](random_model(kind)))
    asked = [GenerateRequest(row, 5, never, key=str(row)) for row in ((1, 2, 3), (6,))]
    runner = ReuseRunner()
    for measure in ("oracle", "top_prob"):
        runner.generate(stack, asked, **options_of(ExitPolicy((1, 2), measure, 1.0), None))
    assert (runner.origins.derived, runner.origins.partly, runner.origins.run) == (4, 0, 0)
    stack.slots = 0
    policy = ExitPolicy((1, 2), "oracle", 0.5)
    (first, second) = runner.generate(stack, asked, **options_of(policy, None))
    assert stack.slots == 0
    assert (first.trace.tokens, second.trace.tokens) == (first.reference, second.reference)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_hidden_states_without_room_are_not_kept(kind: str) -> None:
    model = random_model(kind)
    stack = STACKS[kind](model)
    heads = heads_of(model, (1, 2, 3), 1, classifier="mamba")
    asked = [ScoreRequest((1, 2, 3), (4, 5))]
    small, large = ReuseRunner(10), ReuseRunner()
    for runner, run in ((small, 1), (large, 0)):
        for threshold in (0.3, 0.6):
            options = options_of(ExitPolicy((1, 2, 3), "head", threshold), heads)
            runner.score(stack, asked, **options)
        assert (runner.origins.derived, runner.origins.run) == (2 - run, run)
    assert small.cache.bytes == 0 < large.cache.bytes


def test_other_states_are_run() -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    runner = ReuseRunner()
    options = options_of(ExitPolicy((1, 2), "top_prob", 0.5), None) | {"skipped_state": "propagate"}
    runner.score(stack, [ScoreRequest((1, 2), (3,))], **options)
    runner.generate(stack, [GenerateRequest((1, 2), 3, never, key="a")], **options)
    assert (runner.origins.derived, runner.origins.partly, runner.origins.run) == (0, 0, 2)
