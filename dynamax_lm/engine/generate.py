"""Generation with exits, and its full-depth reference: prefill, decode, compare.

Requests are prefilled in batches; a row in flight that finishes is replaced by the next request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.trace import AnswerTrace
from dynamax_lm.engine.decode import Decoding, decode
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.head_session import HeadSession, TrainedHeads
from dynamax_lm.engine.lossless import LosslessDecoding, decode_lossless
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.reference import Comparison, compare
from dynamax_lm.engine.requests import GenerateRequest, OnStep, Progress
from dynamax_lm.engine.sources import Computed, Prompts, PromptStates, Sources
from dynamax_lm.engine.stateful_stack import StatefulStack

_MOST_OPEN = 4
"""Further batches whose prompt states may be kept, because one of their rows has not finished."""


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A generated answer.

    Attributes:
        trace: its tokens and their depths.
        reference: the full-depth model's own answer, or ``None``.
        attached: an object that a runner around ``generate`` adds; not read here.
    """

    trace: AnswerTrace
    reference: tuple[int, ...] | None
    attached: Any = None


def generate(
    stack: StatefulStack,
    requests: Sequence[GenerateRequest],
    *,
    policy: ExitPolicy = FULL_DEPTH,
    skipped_state: str = "propagate",
    reference: bool = False,
    heads: TrainedHeads | None = None,
    timer: PhaseTimer | None = None,
    draft_length: int | None = None,
    flight: Flight | None = None,
    on_answers: Callable[[Mapping[int, GeneratedAnswer]], None] | None = None,
    on_step: OnStep | None = None,
    sources: Sources | None = None,
) -> list[GeneratedAnswer]:
    """Continue every request, each token exiting where the policy decides.

    >>> import dynamax_lm
    >>> stack = dynamax_lm.load("tiny").lm.stack
    >>> request = dynamax_lm.GenerateRequest((1, 5, 9), max_new=4, stops=lambda answer: False)
    >>> policy = dynamax_lm.ExitPolicy((4, 8), "top_prob", threshold=0.5)
    >>> (answer,) = dynamax_lm.generate(stack, [request], policy=policy)
    >>> len(answer.trace.tokens) == len(answer.trace.layers_used) == 4
    True

    Args:
        stack: the decoder.
        requests: what to continue; those of similar length next to each other.
        policy: when a token exits.
        skipped_state: the skipped-state policy.
        reference: whether to compute the full-depth model's answers as well.
        heads: trained classifiers and translators of the exits, if any.
        timer: accumulates the seconds spent.
        draft_length: generate losslessly (``engine.lossless``) with at most this many tokens a
            draft, at least 1, or ``draft_length.AUTO``; ``skipped_state`` is then unused.
        flight: how many rows are generated at a time; by default all, as one batch.
        on_answers: called with answers by the requests' numbers, as soon as they are complete.
        on_step: called with the answers so far after each step, where the requests are one batch;
            its seconds are part of the answer's.
        sources: of prompt states and full depth, where the requests are one batch; by default all
            is computed here.

    Returns:
        An answer to each request; with further thresholds from ``sources``, those of one threshold
        after the other.

    Raises:
        ValueError: the policy has an exit that the decoder does not have, or a prompt is empty.
    """
    policy.check_layers(stack.n_layers)
    timer = timer or PhaseTimer()
    flight = flight or Flight(max(1, len(requests)))
    size = flight.batch_size
    batches = [range(at, min(at + size, len(requests))) for at in range(0, len(requests), size)]
    assert sources is None or len(batches) <= 1, "sources are those of one batch"
    sources = sources or Computed()
    prompts = Prompts(stack, sources, policy, reference=reference)
    run = _Run(stack, policy, skipped_state, reference, heads, timer, sources, prompts)
    found: dict[int, GeneratedAnswer] = {}

    def keep(some: Mapping[int, GeneratedAnswer]) -> None:
        found.update(some)
        if on_answers is not None:
            on_answers(some)

    if len(batches) > 1:
        _continuous(run, requests, batches, flight, draft_length, keep)
    else:
        for numbers in batches:
            some = [requests[number] for number in numbers]
            ready = _one_batch(run, some, draft_length, on_step)
            keep(dict(enumerate(ready, start=numbers.start)))
    return [found[number] for number in sorted(found)]


@dataclass(frozen=True, slots=True)
class _Run:
    """What all requests of a call have in common; see :func:`generate`."""

    stack: StatefulStack
    policy: ExitPolicy
    skipped_state: str
    reference: bool
    heads: TrainedHeads | None
    timer: PhaseTimer
    sources: Sources
    prompts: Prompts

    @property
    def compares(self) -> bool:
        """Whether answers must be compared with full depth."""
        return self.reference and self.policy.any_exits

    def answers(
        self,
        state: Any,
        mark: Any,
        requests: Sequence[GenerateRequest],
        rows: Sequence[Progress],
    ) -> list[GeneratedAnswer]:
        """The complete ``rows`` as answers to ``requests``, each answered equally often.

        ``state`` and ``mark`` are those of their prompts at full depth.
        """
        compared: list[Comparison] | None = None
        if self.compares:
            with self.timer.measure("reference"):
                compared = compare(
                    *(self.stack, state, mark, requests, rows, self.skipped_state),
                    self.sources.full_depth,
                    prompt_exit=self.policy.prompt_exit,
                )
        elif self.reference:
            compared = [Comparison(row.tokens, None, row.tokens) for row in rows]
        compared = compared or [Comparison()] * len(rows)
        return [
            _answer(requests[number % len(requests)], row, one, self.policy.prompt_exit)
            for number, (row, one) in enumerate(zip(rows, compared, strict=True))
        ]


def _one_batch(
    run: _Run,
    requests: Sequence[GenerateRequest],
    draft_length: int | None,
    on_step: OnStep | None,
) -> list[GeneratedAnswer]:
    """Answer one batch in the state of its prompts, under one or several thresholds."""
    stack, timer, policy = run.stack, run.timer, run.policy
    prompts = run.prompts.prefill(requests, timer)
    thresholds = run.sources.thresholds(policy, len(requests), prompts.state)
    copies = len(thresholds)
    state, full_depth = prompts.repeat(stack, len(requests), copies)
    mark = stack.mark(full_depth) if run.compares else None
    rows = [Progress() for _ in range(len(requests) * copies)]
    if draft_length is not None:
        with timer.measure("answer"):
            session = HeadSession.of(run.heads, len(rows))
            decode_lossless(
                *(stack, state, requests, rows, policy, session, draft_length),
                on_step=on_step,
            )
    elif not run.sources.replay(state, rows):
        own = [one for one in thresholds for _ in requests] if copies > 1 else None
        with timer.measure("answer"):
            session = HeadSession.of(run.heads, len(rows))
            decode(
                *(stack, state, [*requests] * copies, rows, policy, run.skipped_state, session),
                own,
                on_step=on_step,
                exact=full_depth,
            )
    return run.answers(full_depth, mark, requests, rows)


@dataclass
class _Batch:
    """Requests whose prompts were run together.

    Attributes:
        numbers: of the requests.
        prompts: states of their prompts; kept until the last has finished, if answers are compared.
        rows: their answers.
        given: how many of them have been put into a row in flight.
        unfinished: how many have not finished.
    """

    numbers: Sequence[int]
    prompts: PromptStates | None
    rows: list[Progress]
    given: int = 0
    unfinished: int = 0


def _prefilled(run: _Run, requests: Sequence[GenerateRequest], numbers: Sequence[int]) -> _Batch:
    prompts = run.prompts.prefill([requests[number] for number in numbers], run.timer)
    return _Batch(numbers, prompts, [Progress() for _ in numbers], unfinished=len(numbers))


def _decoding(
    run: _Run,
    flight: Flight,
    state: Any,
    first: Sequence[GenerateRequest],
    requests: Sequence[GenerateRequest],
    draft_length: int | None,
) -> tuple[int, Decoding | LosslessDecoding]:
    """How many rows are in flight, and their decoding; for the arguments see ``Flight.rows_for``.

    Lossless steps run every row in flight, so that these are the rows of a batch.
    """
    stack, policy = run.stack, run.policy
    if draft_length is not None:
        count = flight.rows_of_a_batch(len(requests))
        session = HeadSession.of(run.heads, count)
        own = stack.new_state(count)
        return count, LosslessDecoding(stack, own, policy, session, draft_length)
    count = flight.rows_for(stack, state, first, policy, requests)
    session = HeadSession.of(run.heads, count)
    return count, Decoding(
        *(stack, stack.new_state(count), count, policy, run.skipped_state, session),
        flight.batch_size,
    )


def _continuous(
    run: _Run,
    requests: Sequence[GenerateRequest],
    batches: Sequence[Sequence[int]],
    flight: Flight,
    draft_length: int | None,
    keep: Callable[[Mapping[int, GeneratedAnswer]], None],
) -> None:
    """Answer ``batches``; a row that finishes is replaced by a new one at once."""
    stack, timer = run.stack, run.timer
    first = _prefilled(run, requests, batches[0])
    assert first.prompts is not None
    prefilled = [requests[number] for number in batches[0]]
    count, decoding = _decoding(run, flight, first.prompts.state, prefilled, requests, draft_length)
    free, to_come = list(range(count)), deque(batches[1:])
    entering: _Batch | None = first
    owners: dict[int, tuple[_Batch, int]] = {}
    open_batches = 1
    most = _MOST_OPEN + count // flight.batch_size
    while decoding or to_come or entering is not None:
        while free and (entering is not None or to_come):
            if entering is None:
                if run.compares and open_batches >= most:
                    break
                entering = _prefilled(run, requests, to_come.popleft())
                open_batches += 1
            batch = entering
            some = range(batch.given, min(batch.given + len(free), len(batch.numbers)))
            into = [free.pop() for _ in some]
            assert batch.prompts is not None
            with timer.measure("answer"):
                decoding.replace(into, batch.prompts.state, some, batch.prompts.full_depth)
            for row, place in zip(into, some, strict=True):
                decoding.start(row, requests[batch.numbers[place]], batch.rows[place])
                owners[row] = batch, place
            batch.given = some.stop
            if batch.given == len(batch.numbers):
                entering = None
                if not run.compares:
                    batch.prompts = None
        with timer.measure("answer"):
            finished = decoding.step()
        free += finished
        for row in finished:
            batch, place = owners.pop(row)
            batch.unfinished -= 1
            if not run.compares:
                number = batch.numbers[place]
                (answer,) = run.answers(None, None, [requests[number]], [batch.rows[place]])
                keep({number: answer})
            elif not batch.unfinished:
                some_requests = [requests[number] for number in batch.numbers]
                assert batch.prompts is not None
                full_depth = batch.prompts.full_depth
                mark = stack.mark(full_depth)
                done = run.answers(full_depth, mark, some_requests, batch.rows)
                batch.prompts = None
                keep(dict(zip(batch.numbers, done, strict=True)))
            open_batches -= not batch.unfinished


def _answer(
    request: GenerateRequest, row: Progress, compared: Comparison, prompt_exit: int | None
) -> GeneratedAnswer:
    full, again, answer = compared
    trace = AnswerTrace(
        prompt_tokens=len(request.prompt) - 1,
        tokens=tuple(row.tokens),
        emitted=tuple(row.tokens),
        layers_used=tuple(row.layers_used),
        confidence=tuple(row.confidence),
        full_depth=None if full is None else tuple(full),
        reference_pass=None if again is None else tuple(again),
        rounds=tuple(row.rounds) if row.rounds else None,
        prompt_exit=prompt_exit,
    )
    return GeneratedAnswer(trace, None if answer is None else tuple(answer))
