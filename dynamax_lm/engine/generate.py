"""Token-by-token generation with exits, and its full-depth reference.

Owns the door and the reference's short cut: one parallel full-depth pass over the emitted
tokens, generating further only from the first disagreement. It does not know tokenizers, stop
strings, documents or how a token is chosen from logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamax_lm.engine.beside import Beside
from dynamax_lm.engine.decode import GenerateRequest, Next, Progress, answer_inputs, decode
from dynamax_lm.engine.derive import derive
from dynamax_lm.engine.loop import run_chunk
from dynamax_lm.engine.memory import Memory, Origins, digest, tensor_bytes
from dynamax_lm.engine.phases import Phases
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.survey import decisions_follow
from dynamax_lm.engine.trained import Advice, TrainedHeads
from dynamax_lm.models.stack import Chunk, LayerStack
from dynamax_lm.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.trace import AnswerTrace


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
    full_depth: Sequence[Sequence[int] | None] = [None] * len(rows)
    answers: Sequence[Sequence[int] | None] = [None] * len(rows)
    if reference and mark is None:
        full_depth = answers = [row.tokens for row in rows]
    elif reference:
        with phases.measure("reference"):
            full_depth, answers = _compare(stack, state, mark, asked, rows, memory)
    parts = zip(asked, rows, full_depth, answers, strict=True)
    return beside.keep(key, thresholds, [_given(*part) for part in parts])


def _given(
    request: GenerateRequest,
    row: Progress,
    full_depth: Sequence[int] | None,
    answer: Sequence[int] | None,
) -> GeneratedAnswer:
    trace = AnswerTrace(
        prompt_tokens=len(request.prompt) - 1,
        tokens=tuple(row.tokens),
        emitted=tuple(row.tokens),
        layers_used=tuple(row.layers_used),
        confidence=tuple(row.confidence),
        full_depth=None if full_depth is None else tuple(full_depth),
    )
    return GeneratedAnswer(trace, None if answer is None else tuple(answer))


def _compare(
    stack: LayerStack,
    state: Any,
    mark: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    memory: Memory | None,
) -> tuple[list[list[int]], list[list[int]]]:
    """What full depth emits after each prefix of each answer, and its own answers.

    A row that gave full depth's own answer, known from an earlier run, needs neither again; of rows
    of one request that say the same, one is compared, and one alone finds its own answer.
    """
    known: list[Sequence[int] | None] = [None] * len(rows)
    if memory is not None:
        known = [memory.find_answer(request.key) for request in requests]
    full_depth = [list(row.tokens) for row in rows]
    answers = [list(answer or ()) for answer in known]
    differing = [
        number
        for number, (row, answer) in enumerate(zip(rows, known, strict=True))
        if answer is None or list(answer) != row.tokens
    ]
    if not differing:
        return full_depth, answers
    stack.rewind(state, mark)
    said = {number: (id(requests[number]), tuple(rows[number].tokens)) for number in differing}
    compared = list({said[number]: number for number in differing}.values())
    tokens = _parallel(stack, state, requests, rows, compared)
    emitted = {said[number]: some for number, some in zip(compared, tokens, strict=True)}
    for number in differing:
        full_depth[number] = emitted[said[number]]
    finding = {id(requests[number]): number for number in differing if known[number] is None}
    if finding:
        stack.rewind(state, mark)
        owns = _continue(stack, state, requests, rows, full_depth, list(finding.values()))
        found = dict(zip(finding, owns, strict=True))
        for number in differing:
            answers[number] = found.get(id(requests[number]), answers[number])
        if memory is not None:
            for number in finding.values():
                memory.keep_answer(requests[number].key, answers[number])
    return full_depth, answers


def _parallel(
    stack: LayerStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    numbers: Sequence[int],
) -> list[list[int]]:
    """What full depth emits after each prefix of the answers ``numbers``, in one pass."""
    inputs = [
        answer_inputs(requests[number], rows[number].tokens, len(rows[number].tokens))
        for number in numbers
    ]
    owners = [requests[number] for number in numbers for _ in rows[number].tokens]
    prefixes = [
        rows[number].tokens[:step] for number in numbers for step in range(len(rows[number].tokens))
    ]
    chosen = Next(owners, prefixes)
    run_chunk(stack, state, Chunk.of(inputs, numbers, stack.device), chosen)
    tokens = iter(chosen.tokens.tolist())
    return [[next(tokens) for _ in rows[number].tokens] for number in numbers]


def _continue(
    stack: LayerStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    full_depth: Sequence[Sequence[int]],
    numbers: Sequence[int],
) -> list[list[int]]:
    """Full-depth answers: the emitted one, or from the first disagreement full depth's own."""
    answers: dict[int, list[int]] = {}
    unfinished: list[int] = []
    for number in numbers:
        request, row, tokens = requests[number], rows[number], full_depth[number]
        pairs = enumerate(zip(row.tokens, tokens, strict=True))
        differs = next((step for step, (ours, full) in pairs if ours != full), None)
        if differs is None:
            answers[number] = list(row.tokens)
            continue
        answers[number] = [*row.tokens[:differs], tokens[differs]]
        if not request.finished(answers[number]):
            unfinished.append(number)
    if unfinished:
        some = [requests[number] for number in unfinished]
        inputs = [
            answer_inputs(requests[number], answers[number], len(answers[number]))
            for number in unfinished
        ]
        forked = stack.take(state, unfinished)
        chunk = Chunk.of(inputs, range(len(unfinished)), stack.device)
        run_chunk(stack, forked, chunk, None)
        progress = [Progress(tokens=answers[number]) for number in unfinished]
        decode(stack, forked, some, progress, FULL_DEPTH, "propagate", None)
    return [answers[number] for number in numbers]
