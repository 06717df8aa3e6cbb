"""Token-by-token generation with exits, and its full-depth reference: prefill, decode, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamax_lm.core.decode import GenerateRequest, Progress, decode
from dynamax_lm.core.head_session import HeadSession, TrainedHeads
from dynamax_lm.core.lossless import decode_lossless
from dynamax_lm.core.phase_timer import PhaseTimer
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.prefill import prefill
from dynamax_lm.core.reference import Comparison, FullDepthAnswers, compare
from dynamax_lm.core.stack import LayerStack
from dynamax_lm.core.trace import AnswerTrace


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
    stack: LayerStack,
    requests: Sequence[GenerateRequest],
    *,
    policy: ExitPolicy = FULL_DEPTH,
    skipped_state: str = "propagate",
    reference: bool = False,
    heads: TrainedHeads | None = None,
    timer: PhaseTimer | None = None,
    draft_length: int | None = None,
) -> list[GeneratedAnswer]:
    """Continue every request, each token exiting where the policy decides.

    Args:
        stack: the decoder.
        requests: what to continue, as one batch.
        policy: when a token exits.
        skipped_state: the skipped-state policy.
        reference: whether to compute the full-depth model's answers as well.
        heads: trained classifiers and translators of the exits, if any.
        timer: accumulates the seconds spent.
        draft_length: generate losslessly (``core.lossless``) with at most this many tokens a draft,
            at least 1, or ``lossless.AUTO``; ``skipped_state`` is then unused.
    """
    timer = timer or PhaseTimer()
    with timer.measure("prompt"):
        state = prefill(stack, [request.prompt for request in requests])
    mark = stack.mark(state) if reference and policy.exit_layers else None
    rows = [Progress() for _ in requests]
    with timer.measure("answer"):
        session = HeadSession.of(heads, len(rows))
        if draft_length is None:
            decode(stack, state, requests, rows, policy, skipped_state, session)
        else:
            decode_lossless(stack, state, requests, rows, policy, session, draft_length)
    if not reference:
        return answers(requests, rows)
    if mark is None:
        return answers(requests, rows, [Comparison(row.tokens, None, row.tokens) for row in rows])
    with timer.measure("reference"):
        known = FullDepthAnswers()
        compared = compare(stack, state, mark, requests, rows, skipped_state, known)
    return answers(requests, rows, compared)


def answers(
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    compared: Sequence[Comparison] | None = None,
) -> list[GeneratedAnswer]:
    """Rows as answers; ``compared`` has the full-depth comparison of each, if there is one."""
    compared = compared or [Comparison()] * len(rows)
    return [_answer(*part) for part in zip(requests, rows, compared, strict=True)]


def _answer(request: GenerateRequest, row: Progress, compared: Comparison) -> GeneratedAnswer:
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
    )
    return GeneratedAnswer(trace, None if answer is None else tuple(answer))
