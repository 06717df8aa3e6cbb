"""How tests of the laws ask, draw settings, and compare two runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.trace import AnswerTrace
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import (
    CONFIDENCES,
    never,
)

MARGIN = 1e-4
"""Decisions closer than this to their threshold may fall either way in float32."""


LOOKING = ["top_prob|rank:2+refine:9", "margin|shortlist:9", "entropy|rank:2+shortlist:9"]
"""Measures that look at the vocabulary cheaply."""


THRESHOLDS = [0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0]


class Tally:
    """Compares traces token by token and counts the steps that are too close to call."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.steps = self.excluded = 0

    def same(self, ours: AnswerTrace, other: AnswerTrace, *, tokens: bool = True) -> None:
        """Both went the same way; after a step too close to call, the rest is excluded."""
        self.steps += len(ours)
        for number, (a, b) in enumerate(zip(ours.rows(), other.rows(), strict=True)):
            if a.layers_used == b.layers_used and (a.emitted == b.emitted or not tokens):
                continue
            sure = [row.confidence for row in (a, b) if row.confidence is not None]
            close = any(abs(value - self.threshold) <= MARGIN for value in sure)
            assert close, f"step {number}: {a} is not {b}"
            self.excluded += len(ours) - number
            return

    def check(self) -> None:
        """At most 1 % of the steps were excluded."""
        assert self.excluded <= 0.01 * self.steps


def ask(rows: list[tuple[int, ...]], new: int = 6) -> list[GenerateRequest]:
    return [GenerateRequest(row, new, never) for row in rows]


def draw_policy(data: st.DataObject, layers: int) -> ExitPolicy:
    exits = data.draw(st.sets(st.integers(1, layers - 1), min_size=1).map(sorted).map(tuple))
    measures = [c for c in (*CONFIDENCES, *LOOKING) if c != "patience" or len(exits) > 1]
    return ExitPolicy(
        exits, data.draw(st.sampled_from(measures)), data.draw(st.sampled_from(THRESHOLDS))
    )


def draw_skipped(data: st.DataObject, stack: Any) -> str:
    return data.draw(st.sampled_from(sorted(stack.skipped_states)))


class Ignore:
    def choose(self, index: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1)

    def emit(self, index: torch.Tensor, logits: torch.Tensor) -> None:
        """Nothing is kept."""


@contextmanager
def rows_that_enter(stack: Any, kind: str) -> Iterator[list[int]]:
    """How many rows each layer's costly part has computed."""
    counts = [0] * stack.n_layers
    hooks = []
    for number, layer in enumerate(stack.decoder.layers):
        part = layer.mixer.out_proj if kind == "mamba2" else layer.mlp.act_fn

        def count(module: Any, inputs: tuple[torch.Tensor], number: int = number) -> None:
            counts[number] += inputs[0].shape[:-1].numel()

        hooks.append(part.register_forward_pre_hook(count))
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def goes_the_same_way_in_scoring(
    stack: Any, requests: list[GenerateRequest], **options: Any
) -> list[GeneratedAnswer]:
    """Law 4: answers, whose tokens one parallel pass scores under the same options."""
    answers = generate(stack, requests, **options)
    again = [
        ScoreRequest(request.prompt, answer.trace.tokens)
        for request, answer in zip(requests, answers, strict=True)
    ]
    tally = Tally(options["policy"].threshold)
    for answer, scored in zip(answers, score(stack, again, **options), strict=True):
        tally.same(answer.trace, scored.trace)
        if answer.trace.layers_used == scored.trace.layers_used:
            assert scored.trace.full_depth == answer.trace.full_depth
            assert scored.score[1], "generated greedily, so every token is the exit's most likely"
    tally.check()
    return answers


def depths_of(answers: Iterable[GeneratedAnswer]) -> set[int]:
    return {used for answer in answers for used in answer.trace.layers_used}


def neighbours_do_not_matter(stack: Any, requests: list[GenerateRequest], **options: Any) -> None:
    """Law 6, for both doors: a batch and each of its rows alone go the same way."""
    scoring = [ScoreRequest(request.prompt, (5,) * request.max_new) for request in requests]
    together = generate(stack, requests, **options)
    scored = score(stack, scoring, **options)
    tally = Tally(options["policy"].threshold)
    for number in range(len(requests)):
        one = slice(number, number + 1)
        (alone,) = generate(stack, requests[one], **options)
        tally.same(together[number].trace, alone.trace)
        if together[number].trace.layers_used == alone.trace.layers_used:
            assert together[number].reference == alone.reference
        (other,) = score(stack, scoring[one], **options)
        tally.same(scored[number].trace, other.trace)
        if scored[number].trace.layers_used == other.trace.layers_used:
            assert scored[number].score[0] == pytest.approx(other.score[0], abs=1e-3)
    tally.check()


def draw_uneven(
    data: st.DataObject, rows: list[tuple[int, ...]], longest: int, most: int
) -> list[GenerateRequest]:
    """Answers of different lengths, at most ``most``, to prompts that may come again."""
    lengths = data.draw(st.lists(st.integers(1, longest), min_size=len(rows), max_size=most))
    return [
        GenerateRequest(rows[number % len(rows)], new, never) for number, new in enumerate(lengths)
    ]
