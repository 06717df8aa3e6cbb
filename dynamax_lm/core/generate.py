"""Token-by-token generation with exits, beside its full-depth reference.

Owns the door, and which rows run together. It does not know tokenizers, stop strings, documents or
how a token is chosen from logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynamax_lm.core.beside import Beside
from dynamax_lm.core.decode import GenerateRequest, Progress, decode
from dynamax_lm.core.derive import derive
from dynamax_lm.core.exit_probe import decisions_follow
from dynamax_lm.core.head_session import Advice, TrainedHeads
from dynamax_lm.core.memory import Memory, Origins, digest, tensor_bytes
from dynamax_lm.core.phase_timer import Phases
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.prefill import prefill
from dynamax_lm.core.reference import Likeness, compare
from dynamax_lm.core.stack import LayerStack
from dynamax_lm.core.trace import AnswerTrace


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A generated answer.

    Attributes:
        trace: its tokens and their depths.
        reference: the full-depth model's own answer, or ``None``.
    """

    trace: AnswerTrace
    reference: tuple[int, ...] | None


def generate(
    stack: LayerStack,
    requests: Sequence[GenerateRequest],
    *,
    policy: ExitPolicy = FULL_DEPTH,
    skipped_state: str = "propagate",
    reference: bool = False,
    heads: TrainedHeads | None = None,
    phases: Phases | None = None,
    memory: Memory | None = None,
) -> list[GeneratedAnswer]:
    """Continue every request, each token leaving where the policy says.

    Args:
        stack: the decoder.
        requests: what to continue, as one batch.
        policy: when a token leaves.
        skipped_state: what skipped layers remember.
        reference: whether to find the full-depth model's answers as well.
        heads: trained classifiers and translators of the exits, if any.
        phases: where to add the seconds spent.
        memory: what earlier runs over the same requests left to share.
    """
    phases = phases or Phases()
    origins = Origins() if memory is None else memory.origins
    keyed = bool(policy.exit_layers) and all(one.key for one in requests)
    follow = keyed and memory is not None and memory.derives
    follow = follow and decisions_follow(policy, skipped_state)
    beside, key = Beside(), None
    if memory is not None and keyed and not follow:
        beside = memory.beside
        asked_for = digest(*(one.key for one in requests), policy.question, skipped_state)
        key = (asked_for, reference, heads)
    ready: list[GeneratedAnswer] | None = beside.take(key, policy.threshold)
    if ready is not None:
        origins.rows += len(ready)
        return ready
    with phases.measure("prompt"):
        prompts = [request.prompt for request in requests]
        if memory is None:
            state = prefill(stack, prompts)
        else:
            state = memory.prompt_state(stack, prompts, range(len(prompts)))
        thresholds = beside.together(policy.threshold, len(requests), tensor_bytes(state))
        if len(thresholds) > 1:
            state = stack.take(state, [*range(len(requests))] * len(thresholds))
    asked = [*requests] * len(thresholds)
    rows = [Progress() for _ in asked]
    mark = stack.mark(state) if reference and policy.exit_layers else None
    if (
        memory is None
        or not follow
        or not derive(
            *(stack, state, requests, rows),
            policy=policy,
            heads=heads,
            phases=phases,
            memory=memory,
        )
    ):
        with phases.measure("answer"):
            advice = Advice.of(heads, len(rows))
            own = [threshold for threshold in thresholds for _ in requests]
            decode(stack, state, asked, rows, policy, skipped_state, advice, own)
        origins.ran(len(requests), len(thresholds))
    if not reference:
        likenesses = [Likeness() for _ in rows]
    elif mark is None:
        likenesses = [Likeness(row.tokens, None, row.tokens) for row in rows]
    else:
        with phases.measure("reference"):
            likenesses = compare(stack, state, mark, asked, rows, skipped_state, memory)
    parts = zip(asked, rows, likenesses, strict=True)
    return beside.keep(key, thresholds, [_given(*part) for part in parts])


def _given(request: GenerateRequest, row: Progress, likeness: Likeness) -> GeneratedAnswer:
    full, again, answer = likeness
    trace = AnswerTrace(
        prompt_tokens=len(request.prompt) - 1,
        tokens=tuple(row.tokens),
        emitted=tuple(row.tokens),
        layers_used=tuple(row.layers_used),
        confidence=tuple(row.confidence),
        full_depth=None if full is None else tuple(full),
        reference_pass=None if again is None else tuple(again),
    )
    return GeneratedAnswer(trace, None if answer is None else tuple(answer))
