"""Parallel scoring with exits: the log-likelihood door.

Owns how continuations share prompts and passes. It does not know documents, tasks or tokenizers.
Prompts are prefilled once each; a continuation's tokens leave the layers one by one, as they would
in generation, though all are run in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.core.beside import Beside
from dynamax_lm.core.exit_probe import Reading, Survey, decisions_follow, survey
from dynamax_lm.core.full_depth import by_definition
from dynamax_lm.core.head_session import Advice, TrainedHeads
from dynamax_lm.core.loop import Depths, run_chunk
from dynamax_lm.core.memory import Memory, Origins, digest, tensor_bytes
from dynamax_lm.core.phase_timer import Phases
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.prefill import prefill
from dynamax_lm.core.stack import Chunk, LayerStack
from dynamax_lm.core.trace import AnswerTrace


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A continuation to score.

    Attributes:
        prompt: token ids, at least one.
        continuation: token ids, at least one.
    """

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """A scored continuation.

    Attributes:
        log_probabilities: of each continuation token at its exit, natural logarithm.
        trace: what happened to each token.
        reference: each token's log-probability at full depth, or ``None``; of a token that is full
            depth's by definition (`fulldepth`) its own.
    """

    log_probabilities: tuple[float, ...]
    trace: AnswerTrace
    reference: tuple[float, ...] | None

    @property
    def score(self) -> tuple[float, bool]:
        """(log-likelihood, whether every token is the exit's most likely)."""
        return sum(self.log_probabilities), self.trace.emitted == self.trace.tokens

    @property
    def full_depth_score(self) -> tuple[float, bool] | None:
        """The same at full depth."""
        if self.reference is None or self.trace.full_depth is None:
            return None
        return sum(self.reference), self.trace.full_depth == self.trace.tokens


class _Targets:
    """Reads the log-probabilities of given tokens, and the most likely one, at each exit."""

    def __init__(self, targets: Tensor, dtype: torch.dtype) -> None:
        self._targets = targets  # (N, K), several continuations may share a pass
        self._dtype = dtype
        self.log_probabilities = torch.zeros(targets.shape, dtype=torch.float64)
        self.most_likely = torch.zeros(targets.shape[0], dtype=torch.long)

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        del index
        return logits.argmax(-1)

    def emit(self, index: Tensor, logits: Tensor) -> None:
        wide = logits.to(self._dtype)
        wanted = self._targets[index].to(wide.device)
        found = wide.gather(1, wanted) - wide.logsumexp(-1, keepdim=True)
        self.log_probabilities[index.cpu()] = found.double().cpu()
        self.most_likely[index.cpu()] = wide.argmax(-1).cpu()

    def read(self) -> Reading:
        """The log-probabilities and the most likely tokens."""
        return Reading(self.log_probabilities, self.most_likely)


@dataclass(frozen=True, slots=True)
class _Pass:
    """Requests that need the same tokens run: one row of the chunk each."""

    prompt: tuple[int, ...]
    inputs: tuple[int, ...]
    members: tuple[int, ...]


def score(
    stack: LayerStack,
    requests: Sequence[ScoreRequest],
    *,
    policy: ExitPolicy = FULL_DEPTH,
    skipped_state: str = "propagate",
    reference: bool = False,
    softmax_dtype: torch.dtype = torch.float32,
    heads: TrainedHeads | None = None,
    phases: Phases | None = None,
    memory: Memory | None = None,
) -> list[ScoredAnswer]:
    """Score every request, each token leaving where the policy says.

    Args:
        stack: the decoder.
        requests: what to score, as one batch.
        policy: when a token leaves.
        skipped_state: what skipped layers remember.
        reference: whether to score at full depth as well, from the same prompt states.
        softmax_dtype: in which the log-probabilities are computed.
        heads: trained classifiers and translators of the exits, if any.
        phases: where to add the seconds spent.
        memory: what earlier runs over the same requests left to share.
    """
    phases = phases or Phases()
    passes = _share(requests)
    targets = _targets(requests, passes).to(stack.device)
    key = digest(requests, softmax_dtype)
    if memory is not None and memory.derives and decisions_follow(policy, skipped_state):
        seen = memory.survey(
            (key, policy.exit_layers, policy.confidence, heads),
            lambda: _survey(stack, passes, targets, policy, softmax_dtype, heads, phases, memory),
        )
        if seen is not None:
            memory.origins.derived += len(requests)
            memory.keep_scores(key, seen.full_depth)
            with phases.measure("answer"):
                reading, depths = seen.decide(policy, heads)
            full = seen.full_depth if reference else None
            return _answers(requests, passes, _Likeness(reading, full, depths, own=None))
    origins = Origins() if memory is None else memory.origins
    beside, asked_for = Beside(), None
    if memory is not None and policy.exit_layers:
        beside, asked_for = memory.beside, (key, *policy.question, skipped_state, reference, heads)
    ready: list[ScoredAnswer] | None = beside.take(asked_for, policy.threshold)
    if ready is not None:
        origins.rows += len(ready)
        return ready
    with phases.measure("prompt"):
        state, chunk = _begin(stack, passes, memory)
    full_needed = reference or policy.needs_target
    full = None
    if full_needed and policy.exit_layers:
        with phases.measure("reference"):
            full = memory.find_scores(key) if memory is not None else None
            if full is None:
                mark = stack.mark(state)
                reads = _Targets(targets, softmax_dtype)
                run_chunk(stack, state, chunk, reads)
                stack.rewind(state, mark)
                full = reads.read()
            if memory is not None:
                memory.keep_scores(key, full)
    thresholds = beside.together(policy.threshold, targets.shape[0], tensor_bytes(state))
    count = len(thresholds)
    origins.ran(len(requests), count)
    bars = policy.bars(thresholds).repeat_interleave(targets.shape[0]).to(stack.device)
    ours = _Targets(targets.repeat(count, 1), softmax_dtype)
    with phases.measure("answer"):
        if count > 1:
            state = stack.take(state, [*range(len(passes))] * count)
        depths = run_chunk(
            stack,
            state,
            chunk.repeat(count),
            ours,
            policy=policy,
            bars=bars,
            skipped_state=skipped_state,
            targets=None if full is None else full.emitted.repeat(count).to(stack.device),
            advice=Advice.of(heads, len(passes) * count),
        )
    reading = ours.read()
    answers: list[ScoredAnswer] = []
    for some, where in zip(reading.split(count), depths.split(count), strict=True):
        own = None
        if reference and full is not None:
            own = _by_definition(passes, where, stack.n_layers, skipped_state)
        likeness = _Likeness(some, (full or some) if reference else None, where, own)
        answers += _answers(requests, passes, likeness)
    return beside.keep(asked_for, thresholds, answers)


def _survey(
    stack: LayerStack,
    passes: Sequence[_Pass],
    targets: Tensor,
    policy: ExitPolicy,
    softmax_dtype: torch.dtype,
    heads: TrainedHeads | None,
    phases: Phases,
    memory: Memory,
) -> Survey:
    """One full-depth pass from which every threshold follows."""
    with phases.measure("prompt"):
        state, chunk = _begin(stack, passes, memory)
    with phases.measure("answer"):
        readers = [_Targets(targets, softmax_dtype) for _ in range(len(policy.exit_layers) + 1)]
        return survey(stack, state, chunk, readers, policy=policy, heads=heads)


def _share(requests: Sequence[ScoreRequest]) -> list[_Pass]:
    """One pass for all requests that differ at most in their last token."""
    members: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for number, request in enumerate(requests):
        key = (request.prompt, request.continuation[:-1])
        members.setdefault(key, []).append(number)
    return [
        _Pass(prompt, prompt[-1:] + inputs, tuple(numbers))
        for (prompt, inputs), numbers in members.items()
    ]


def _begin(stack: LayerStack, passes: Sequence[_Pass], memory: Memory | None) -> tuple[Any, Chunk]:
    """Prefill each distinct prompt once and give every pass a copy of its state."""
    prompts = list(dict.fromkeys(one.prompt for one in passes))
    place = {prompt: row for row, prompt in enumerate(prompts)}
    rows = [place[one.prompt] for one in passes]
    if memory is not None:
        state = memory.prompt_state(stack, prompts, rows)
    else:
        state = prefill(stack, prompts)
        if len(prompts) != len(passes):
            state = stack.take(state, rows)
    chunk = Chunk.of([one.inputs for one in passes], range(len(passes)), stack.device)
    return state, chunk


def _targets(requests: Sequence[ScoreRequest], passes: Sequence[_Pass]) -> Tensor:
    """(N, K) the tokens whose probability is asked, K the most requests that share a pass."""
    widest = max(len(one.members) for one in passes)
    rows: list[list[int]] = []
    for one in passes:
        answers = [requests[number].continuation for number in one.members]
        answers += [answers[0]] * (widest - len(answers))
        rows += [list(column) for column in zip(*answers, strict=True)]
    return torch.tensor(rows)


@dataclass(frozen=True, slots=True)
class _Likeness:
    """What was read of every token where it left, and at full depth.

    Attributes:
        ours: where it left.
        full: in the reference's pass; ``None`` without a reference.
        depths: where that was.
        own: (N,) bool, whether a token is full depth's by definition; ``None`` where ``ours`` and
            ``full`` come from one pass and so cannot differ there.
    """

    ours: Reading
    full: Reading | None
    depths: Depths
    own: Tensor | None

    @property
    def reference(self) -> Reading | None:
        """At full depth: what the token itself says, where it is full depth's by definition."""
        if self.full is None or self.own is None:
            return self.full
        ours, full = self.ours, self.full
        return Reading(
            torch.where(self.own[:, None], ours.log_probabilities, full.log_probabilities),
            torch.where(self.own, ours.emitted, full.emitted),
        )

    @property
    def again(self) -> list[int | None] | None:
        """What the pass emits where it is not needed; ``None`` where there is no second pass."""
        if self.full is None or self.own is None:
            return None
        pairs = zip(self.full.emitted.tolist(), self.own.tolist(), strict=True)
        return [token if own else None for token, own in pairs]


def _by_definition(
    passes: Sequence[_Pass], depths: Depths, n_layers: int, skipped_state: str
) -> Tensor:
    """(N,) bool: which tokens are full depth's by definition."""
    used = iter(depths.layers_used.tolist())
    rows = [[next(used) for _ in one.inputs] for one in passes]
    return torch.tensor(
        [own for row in rows for own in by_definition(row, n_layers, skipped_state)]
    )


def _answers(
    requests: Sequence[ScoreRequest], passes: Sequence[_Pass], likeness: _Likeness
) -> list[ScoredAnswer]:
    answers: dict[int, ScoredAnswer] = {}
    ours, full, depths = likeness.ours, likeness.reference, likeness.depths
    again = likeness.again
    used = depths.layers_used.tolist()
    sure = [None if value != value else value for value in depths.confidence.tolist()]
    emitted = ours.emitted.tolist()
    full_tokens = None if full is None else full.emitted.tolist()
    start = 0
    for one in passes:
        part = slice(start, start + len(one.inputs))
        start = part.stop
        for column, number in enumerate(one.members):
            trace = AnswerTrace(
                prompt_tokens=len(one.prompt) - 1,
                tokens=requests[number].continuation,
                emitted=tuple(emitted[part]),
                layers_used=tuple(used[part]),
                confidence=tuple(sure[part]),
                full_depth=None if full_tokens is None else tuple(full_tokens[part]),
                reference_pass=None if again is None else tuple(again[part]),
            )
            answers[number] = ScoredAnswer(
                tuple(ours.log_probabilities[part, column].tolist()),
                trace,
                None if full is None else tuple(full.log_probabilities[part, column].tolist()),
            )
    return [answers[number] for number in range(len(requests))]
