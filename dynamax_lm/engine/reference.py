"""The full-depth model's answers, computed from the answers that were generated with exits.

Tokens that are full depth's by definition need no reference. One parallel full-depth pass over the
emitted tokens gives full depth's token at each of the others, and full depth decodes further only
from the first disagreement.

In low precision the pass rounds differently from single decoding steps. The rate at which it
differs on tokens that are full depth's by definition estimates its noise on all others; the pass is
therefore made for every row, also those in which no token exited.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from dynamax_lm.core.full_depth import by_definition, prompt_exited
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.policy import FULL_DEPTH
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.requests import GenerateRequest, Progress, TokenChoice, answer_inputs
from dynamax_lm.engine.sources import FullDepthAnswers
from dynamax_lm.engine.stateful_stack import StatefulStack


class Comparison(NamedTuple):
    """Full depth's tokens for one answer; ``None`` without a reference.

    Attributes:
        tokens: full depth's token after each prefix of the answer.
        again: tokens of the parallel pass, where ``tokens`` is known without it, else ``None``.
        answer: full depth's own answer.
    """

    tokens: Sequence[int] | None = None
    again: Sequence[int | None] | None = None
    answer: Sequence[int] | None = None


def compare(
    stack: StatefulStack,
    state: Any,
    mark: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    skipped_state: str,
    known: FullDepthAnswers,
    *,
    prompt_exit: int | None = None,
) -> list[Comparison]:
    """Compare every row's answer with full depth.

    Drafted tokens of a lossless answer are compared with the pass, to verify that they are full
    depth's.

    Args:
        stack: the decoder.
        state: of the rows; tokens after ``mark`` are discarded.
        mark: snapshot after the prompts, which ran at full depth.
        requests: what was answered, each equally often: row i of n requests answers i modulo n.
        rows: the answers.
        skipped_state: the skipped-state policy of the answers.
        known: full depth's answers found so far; those found here are added.
        prompt_exit: layers that prompt tokens ran for the answers; ``None`` for all.
    """
    owners = [row % len(requests) for row in range(len(rows))]
    answered = [requests[owner] for owner in owners]
    passes = _passes(stack, state, mark, answered, owners, rows, known)
    certain = [
        _certain(
            *(row, stack.n_layers, skipped_state),
            exited=prompt_exited(prompt_exit, len(request.prompt) - 1),
        )
        for request, row in zip(answered, rows, strict=True)
    ]
    full_depth = [
        [other if own is None else own for own, other in zip(owns, others, strict=True)]
        for owns, others in zip(certain, passes, strict=True)
    ]
    again = [
        [None if own is None else other for own, other in zip(owns, others, strict=True)]
        for owns, others in zip(certain, passes, strict=True)
    ]
    answers = _answers(stack, state, mark, answered, owners, rows, full_depth, known)
    return [Comparison(*one) for one in zip(full_depth, again, answers, strict=True)]


def _certain(row: Progress, n_layers: int, skipped_state: str, *, exited: bool) -> list[int | None]:
    """Full depth's tokens where no reference is needed: the row's own, or an exact state's."""
    exact: Sequence[int | None] = row.exact or [None] * len(row.tokens)
    owns = by_definition(
        *(row.layers_used, n_layers, skipped_state), prompt_exited=exited, rounds=row.rounds
    )
    return [
        token if own else other for token, own, other in zip(row.tokens, owns, exact, strict=True)
    ]


def _passes(
    stack: StatefulStack,
    state: Any,
    mark: Any,
    requests: Sequence[GenerateRequest],
    owners: Sequence[int],
    rows: Sequence[Progress],
    known: FullDepthAnswers,
) -> list[Sequence[int]]:
    """Tokens of a full-depth pass over each answer; equal answers of a request share one."""
    keys = [(owner, tuple(row.tokens)) for owner, row in zip(owners, rows, strict=True)]
    found: dict[tuple[int, tuple[int, ...]], Sequence[int]] = {}
    for one, request in zip(keys, requests, strict=True):
        kept = known.find_pass(request.key, one[1])
        if kept is not None:
            found[one] = kept
    numbers = list({one: number for number, one in enumerate(keys) if one not in found}.values())
    if numbers:
        stack.rewind(state, mark)
        for number, emitted in zip(
            numbers, _parallel(stack, state, requests, rows, numbers), strict=True
        ):
            found[keys[number]] = emitted
            known.keep_pass(requests[number].key, rows[number].tokens, emitted)
    return [found[one] for one in keys]


def _parallel(
    stack: StatefulStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    numbers: Sequence[int],
) -> list[list[int]]:
    """Full depth's token after each prefix of the answers ``numbers``, in one pass."""
    inputs = [
        answer_inputs(requests[number], rows[number].tokens, len(rows[number].tokens))
        for number in numbers
    ]
    owners = [requests[number] for number in numbers for _ in rows[number].tokens]
    prefixes = [
        rows[number].tokens[:step] for number in numbers for step in range(len(rows[number].tokens))
    ]
    chosen = TokenChoice(owners, prefixes)
    run_token_batch(stack, state, TokenBatch.of(inputs, numbers, stack.device), chosen)
    tokens = iter(chosen.tokens.tolist())
    return [[next(tokens) for _ in rows[number].tokens] for number in numbers]


def _answers(
    stack: StatefulStack,
    state: Any,
    mark: Any,
    requests: Sequence[GenerateRequest],
    owners: Sequence[int],
    rows: Sequence[Progress],
    full_depth: Sequence[Sequence[int]],
    known: FullDepthAnswers,
) -> list[list[int]]:
    """Full depth's own answers: the emitted one, or decoded from the first disagreement on.

    Rows of one request share an answer if it has the prefix of each; in low precision it may not.
    """
    begun = [_begun(row.tokens, full) for row, full in zip(rows, full_depth, strict=True)]
    found: defaultdict[int, list[list[int]]] = defaultdict(list)
    every = list(zip(owners, requests, rows, begun, strict=True))
    for owner, request, row, begin in every:
        kept = known.find_answer(request.key)
        if kept is not None:
            found[owner].append(list(kept))
        if begin == row.tokens or request.finished(begin):
            found[owner].append(begin)
    answers: dict[int, list[int]] = {}
    while True:
        for number, (owner, _, row, begin) in enumerate(every):
            whole = begin == row.tokens
            fitting = [one for one in found[owner] if one[: len(begin)] == begin]
            if whole or fitting:
                answers[number] = begin if whole else fitting[0]
        missing = {owners[n]: n for n in range(len(rows)) if n not in answers}
        if not missing:
            break
        numbers = list(missing.values())
        stack.rewind(state, mark)
        for number, answer in zip(
            numbers, _continue(stack, state, requests, begun, numbers), strict=True
        ):
            found[owners[number]].append(answer)
    for owner, request, _, _ in every:
        known.keep_answer(request.key, found[owner][0])
    return [answers[number] for number in range(len(rows))]


def _begun(tokens: Sequence[int], full_depth: Sequence[int]) -> list[int]:
    """Full depth's own answer up to the first token that is not the emitted one."""
    pairs = enumerate(zip(tokens, full_depth, strict=True))
    differs = next((step for step, (ours, full) in pairs if ours != full), None)
    return list(tokens) if differs is None else [*tokens[:differs], full_depth[differs]]


def _continue(
    stack: StatefulStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    begun: Sequence[Sequence[int]],
    numbers: Sequence[int],
) -> list[list[int]]:
    """Complete the answers ``numbers`` from their prefixes ``begun``, at full depth."""
    inputs = [
        answer_inputs(requests[number], begun[number], len(begun[number])) for number in numbers
    ]
    forked = stack.take(state, numbers)
    token_batch = TokenBatch.of(inputs, range(len(numbers)), stack.device)
    run_token_batch(stack, forked, token_batch, None)
    progress = [Progress(tokens=list(begun[number])) for number in numbers]
    some = [requests[number] for number in numbers]
    decode(stack, forked, some, progress, FULL_DEPTH, "propagate", None)
    return [one.tokens for one in progress]
