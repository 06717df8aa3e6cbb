"""Generation under exact state, from full depth's own answer.

A replay of full depth's answer determines an answer as long as the exits emit the same tokens, and
one token further. From there a row is decoded.

Which tokens are pending does not change an exact state, and the ledger bills recomputation from
depths alone; so decoding may continue from a state without pending tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamax_lm.common.identity import digest
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.head_session import HeadSession, TrainedHeads
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.requests import GenerateRequest, Progress, TokenChoice, answer_inputs
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.reuse.origins import Origins
from dynamax_lm.reuse.reuse_cache import ReuseCache
from dynamax_lm.reuse.threshold_replay import ThresholdReplay, replay_thresholds


def replay_generation(
    stack: StatefulStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    *,
    policy: ExitPolicy,
    heads: TrainedHeads | None,
    timer: PhaseTimer,
    cache: ReuseCache,
    origins: Origins,
) -> bool:
    """Answer every request as decoding under ``recompute`` would; ``state`` is not changed.

    Args:
        stack: the decoder.
        state: of the prompts.
        requests: what to continue; each has a key.
        rows: filled with the answers.
        policy: when a token exits.
        heads: trained heads, if any.
        timer: accumulates the seconds spent.
        cache: shared by all thresholds.
        origins: counts how the answers were computed.

    Returns:
        Whether it did; ``False`` if the cache has no room for the replay.
    """
    with timer.measure("reference"):
        answers = _full_depth(stack, state, requests, cache)
        key = (digest(*(one.key for one in requests)), policy.exit_layers, policy.confidence, heads)
        seen = cache.replay(
            key, lambda: _replay(stack, state, requests, answers, policy=policy, heads=heads)
        )
    if seen is None:
        return False
    _keep_passes(seen, requests, answers, cache)
    with timer.measure("answer"):
        unfinished = _follow(seen, requests, rows, answers, policy, heads)
        origins.derived += len(rows) - len(unfinished)
        origins.partly += len(unfinished)
        if unfinished:
            _continue(stack, state, requests, rows, unfinished, policy, heads)
    return True


def _full_depth(
    stack: StatefulStack, state: Any, requests: Sequence[GenerateRequest], cache: ReuseCache
) -> list[tuple[int, ...]]:
    """Full depth's own answers, decoded once."""
    known = [cache.full_depth.find_answer(request.key) for request in requests]
    unknown = [number for number, answer in enumerate(known) if answer is None]
    if unknown:
        some = [requests[number] for number in unknown]
        progress = [Progress() for _ in unknown]
        decode(stack, stack.take(state, unknown), some, progress, FULL_DEPTH, "propagate", None)
        for number, one in zip(unknown, progress, strict=True):
            known[number] = tuple(one.tokens)
            cache.full_depth.keep_answer(requests[number].key, one.tokens)
    return [answer or () for answer in known]


def _replay(
    stack: StatefulStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    answers: Sequence[Sequence[int]],
    *,
    policy: ExitPolicy,
    heads: TrainedHeads | None,
) -> ThresholdReplay:
    """Every exit evaluated after each prefix of full depth's answers."""
    inputs = [
        answer_inputs(request, answer, len(answer))
        for request, answer in zip(requests, answers, strict=True)
    ]
    owners = [one for one, answer in zip(requests, answers, strict=True) for _ in answer]
    prefixes = [answer[:step] for answer in answers for step in range(len(answer))]
    readers = [TokenChoice(owners, prefixes) for _ in range(len(policy.exit_layers) + 1)]
    token_batch = TokenBatch.of(inputs, range(len(inputs)), stack.device)
    copy = stack.take(state, range(len(inputs)))
    return replay_thresholds(stack, copy, token_batch, readers, policy=policy, heads=heads)


def _keep_passes(
    seen: ThresholdReplay,
    requests: Sequence[GenerateRequest],
    answers: Sequence[Sequence[int]],
    cache: ReuseCache,
) -> None:
    """Store the replay as the full-depth pass over full depth's answers."""
    emitted = iter(seen.full_depth.emitted.tolist())
    for request, answer in zip(requests, answers, strict=True):
        cache.full_depth.keep_pass(request.key, answer, [next(emitted) for _ in answer])


def _follow(
    seen: ThresholdReplay,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    answers: Sequence[Sequence[int]],
    policy: ExitPolicy,
    heads: TrainedHeads | None,
) -> list[int]:
    """Fill ``rows`` as far as the replay determines them; the numbers of unfinished rows.

    A token that runs every layer is the decoded answer's, independent of rounding in the pass.
    """
    reading, depths = seen.decide(policy, heads)
    emitted, used = reading.emitted.tolist(), depths.layers_used.tolist()
    decoded = [token for answer in answers for token in answer]
    emitted = [
        full if layers == seen.n_layers else token
        for token, full, layers in zip(emitted, decoded, used, strict=True)
    ]
    confidence = depths.confidence.tolist()
    unfinished: list[int] = []
    start = 0
    for number, answer in enumerate(answers):
        tokens = emitted[start : start + len(answer)]
        pairs = enumerate(zip(tokens, answer, strict=True), start=1)
        steps = next((step for step, (ours, full) in pairs if ours != full), len(answer))
        row, part = rows[number], slice(start, start + steps)
        row.tokens, row.layers_used = tokens[:steps], used[part]
        row.confidence = list(confidence[part])
        row.exact = list(answer[:steps]) if policy.needs_target else []
        if not requests[number].finished(row.tokens):
            unfinished.append(number)
        start += len(answer)
    return unfinished


def _continue(
    stack: StatefulStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    numbers: Sequence[int],
    policy: ExitPolicy,
    heads: TrainedHeads | None,
) -> None:
    """Decode the rest of the answers ``numbers``, after a pass over their prefixes."""
    some = [requests[number] for number in numbers]
    begun = [rows[number] for number in numbers]
    inputs = [
        answer_inputs(request, row.tokens, len(row.tokens))
        for request, row in zip(some, begun, strict=True)
    ]
    forked = stack.take(state, numbers)
    token_batch = TokenBatch.of(inputs, range(len(numbers)), stack.device)
    session = HeadSession.of(heads, len(numbers))
    if policy.reads_heads and heads is not None and heads.along_tokens:
        # The state of each classifier must include those of these tokens that reached its exit.
        owners = [request for request, row in zip(some, begun, strict=True) for _ in row.tokens]
        prefixes = [row.tokens[:step] for row in begun for step in range(len(row.tokens))]
        cutoffs = policy.cutoffs_at([len(prefix) for prefix in prefixes])
        run_token_batch(
            stack,
            forked,
            token_batch,
            TokenChoice(owners, prefixes),
            policy=policy,
            cutoffs=None if cutoffs is None else cutoffs.to(stack.device),
            skipped_state="recompute",
            session=session,
        )
    else:
        run_token_batch(stack, forked, token_batch, None)
    decode(stack, forked, some, begun, policy, "recompute", session)
