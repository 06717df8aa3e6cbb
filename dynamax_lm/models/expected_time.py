"""About how long requests will take, from a short trial of a few of them.

An upper estimate: it counts nothing that settings share, and in generation every answer at its
largest length, unless there are so many requests that a few of them are answered to see how long
answers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.phase_timer import seconds_of
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.engine.stateful_stack import StatefulStack

_PROMPT, _CONTINUATION, _STEPS = 64, 16, 4
"""Tokens of a trial's prompts and continuations, and its decoding steps."""
_MANY = 4
"""Batches from which on the lengths of one batch's answers are measured."""
_Request = TypeVar("_Request", GenerateRequest, ScoreRequest)


def generation_seconds(
    stack: StatefulStack, requests: Sequence[GenerateRequest], rows: int, **options: Any
) -> float:
    """Seconds until every request has its answer, of the largest length where there are few.

    Args:
        stack: the decoder.
        requests: at least one, sorted by the length of their prompts.
        rows: of a batch.
        **options: of ``engine.generate.generate``.
    """
    tried = [replace(one, prompt=one.prompt[-_PROMPT:]) for one in _middle(requests, rows)]

    def trial(steps: int) -> float:
        some = [replace(one, max_new=steps, stops=_never, key=None) for one in tried]
        return seconds_of(lambda: generate(stack, some, **options))

    trial(1)  # the first pass is slower
    first, all_steps = trial(1), trial(1 + _STEPS)
    prompt = first / sum(len(one.prompt) for one in tried)
    step = max(0.0, all_steps - first) / _STEPS / len(tried)  # of one row
    share = _share_of_longest(stack, requests, rows, **options)
    return sum(len(one.prompt) * prompt + one.max_new * share * step for one in requests)


def _share_of_longest(
    stack: StatefulStack, requests: Sequence[GenerateRequest], rows: int, **options: Any
) -> float:
    """The mean length of answers as a share of the largest; 1 where trying takes too long."""
    if len(requests) < _MANY * rows:
        return 1.0
    # without a chooser, whose random numbers are the run's
    some = [
        replace(one, chooser=None, key=None) for one in requests[:: len(requests) // rows][:rows]
    ]
    tokens = sum(len(one.trace.tokens) for one in generate(stack, some, **options))
    return tokens / sum(one.max_new for one in some)


def scoring_seconds(
    stack: StatefulStack, requests: Sequence[ScoreRequest], rows: int, **options: Any
) -> float:
    """Seconds until every request is scored; a prompt is run once for all its continuations.

    Args:
        stack: the decoder.
        requests: at least one, those with one prompt next to each other.
        rows: of a batch.
        **options: of ``engine.score.score``.
    """
    some = [
        replace(one, prompt=one.prompt[-_PROMPT:], continuation=one.continuation[:_CONTINUATION])
        for one in _middle(requests, rows)
    ]

    def trial() -> float:
        return seconds_of(lambda: score(stack, some, **options))

    trial()
    return trial() * _tokens(requests) / _tokens(some)


def _tokens(requests: Sequence[ScoreRequest]) -> int:
    """Of distinct prompts and of continuations."""
    prompts = {one.prompt for one in requests}
    return sum(map(len, prompts)) + sum(len(one.continuation) for one in requests)


def _middle(requests: Sequence[_Request], rows: int) -> Sequence[_Request]:
    start = max(0, (len(requests) - rows) // 2)
    return requests[start : start + rows]


def _never(answer: Sequence[int]) -> bool:
    del answer
    return False
