"""Log-likelihoods of given continuations, with exits, in one parallel pass.

Each distinct prompt is prefilled once, and continuations that differ at most in their last token
share a row of the pass. Each token of a continuation exits as it would in generation, although one
pass runs all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.core.full_depth import by_definition, prompt_exited
from dynamax_lm.core.loop import ExitDecisions, run_token_batch
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.core.trace import AnswerTrace
from dynamax_lm.engine.head_session import HeadSession, TrainedHeads
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.reading import Reading
from dynamax_lm.engine.sources import Computed, Sources
from dynamax_lm.engine.stateful_stack import StatefulStack


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A continuation to score.

    >>> ScoreRequest(prompt=(5, 6), continuation=(7,)).continuation
    (7,)

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
        trace: the record of each token.
        reference: each token's log-probability at full depth, or ``None``; for a token that is full
            depth's by definition (``core.full_depth``), its log-probability in this run.
        attached: an object that a runner around ``score`` adds; not read here.
    """

    log_probabilities: tuple[float, ...]
    trace: AnswerTrace
    reference: tuple[float, ...] | None
    attached: Any = None

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


class TargetReader:
    """Reads the log-probabilities of given tokens, and the most likely token, at each exit.

    Args:
        targets: (N, K) token ids; several continuations may share a row of the pass.
        dtype: in which the log-probabilities are computed.
    """

    def __init__(self, targets: Tensor, dtype: torch.dtype) -> None:
        self._targets = targets
        self._dtype = dtype
        self._log_probabilities = torch.zeros(targets.shape, dtype=torch.float64)
        self._most_likely = torch.zeros(targets.shape[0], dtype=torch.long)

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        del index
        return logits.argmax(-1)

    def emit(self, index: Tensor, logits: Tensor) -> None:
        wide = logits.to(self._dtype)
        targets = self._targets[index].to(wide.device)
        found = wide.gather(1, targets) - wide.logsumexp(-1, keepdim=True)
        self._log_probabilities[index.cpu()] = found.double().cpu()
        self._most_likely[index.cpu()] = wide.argmax(-1).cpu()

    def read(self) -> Reading:
        return Reading(self._log_probabilities, self._most_likely)


@dataclass(frozen=True, slots=True)
class _SharedPass:
    """Requests that run the same tokens: one row of the pass."""

    prompt: tuple[int, ...]
    inputs: tuple[int, ...]
    members: tuple[int, ...]


class ScoreBatch:
    """Continuations as rows of one pass; those that differ at most in their last token share one.

    Args:
        requests: what to score.
        softmax_dtype: in which the log-probabilities are computed.

    Attributes:
        prompts: the distinct prompts.
        prompt_rows: which of them each row of the pass continues.
        n_tokens: N, tokens of the pass.
    """

    def __init__(
        self, requests: Sequence[ScoreRequest], softmax_dtype: torch.dtype = torch.float32
    ) -> None:
        members: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            key = (request.prompt, request.continuation[:-1])
            members.setdefault(key, []).append(number)
        self._requests = requests
        self._dtype = softmax_dtype
        self._passes = [
            _SharedPass(prompt, prompt[-1:] + inputs, tuple(numbers))
            for (prompt, inputs), numbers in members.items()
        ]
        self._targets = self._target_tokens()
        self.prompts = list(dict.fromkeys(one.prompt for one in self._passes))
        place = {prompt: row for row, prompt in enumerate(self.prompts)}
        self.prompt_rows = [place[one.prompt] for one in self._passes]
        self.n_tokens: int = self._targets.shape[0]

    def prefill(
        self,
        stack: StatefulStack,
        sources: Sources,
        prompt_exit: PromptExit | None = None,
    ) -> Any:
        """A state with one row for each row of the pass, each prompt prefilled once."""
        return sources.prompt_state(stack, self.prompts, self.prompt_rows, prompt_exit)

    def steps(self) -> list[int]:
        """(N,) how many tokens of its continuation precede each token."""
        return [step for one in self._passes for step in range(len(one.inputs))]

    def token_batch(self, stack: StatefulStack) -> TokenBatch:
        """The tokens of the pass."""
        inputs = [one.inputs for one in self._passes]
        return TokenBatch.of(inputs, range(len(inputs)), stack.device)

    def reader(self, stack: StatefulStack, copies: int = 1) -> TargetReader:
        """A reader of the continuations' tokens, in ``copies`` copies of the pass."""
        return TargetReader(self._targets.to(stack.device).repeat(copies, 1), self._dtype)

    def full_depth(self, stack: StatefulStack, state: Any) -> Reading:
        """The same pass at full depth; ``state`` is restored."""
        mark = stack.mark(state)
        reader = self.reader(stack)
        run_token_batch(stack, state, self.token_batch(stack), reader)
        stack.rewind(state, mark)
        return reader.read()

    def by_definition(
        self,
        depths: ExitDecisions,
        n_layers: int,
        skipped_state: str,
        prompt_exit: int | None = None,
    ) -> Tensor:
        """(N,) bool: which tokens are full depth's by definition (``core.full_depth``)."""
        used = iter(depths.layers_used.tolist())
        found: list[bool] = []
        for one in self._passes:
            row = [next(used) for _ in one.inputs]
            exited = prompt_exited(prompt_exit, len(one.prompt) - 1)
            found += by_definition(row, n_layers, skipped_state, prompt_exited=exited)
        return torch.tensor(found)

    def answers(
        self,
        ours: Reading,
        depths: ExitDecisions,
        full: Reading | None,
        own: Tensor | None,
        prompt_exit: int | None = None,
    ) -> list[ScoredAnswer]:
        """The answers, in the order of the requests.

        Args:
            ours: the reading of each token at its exit.
            depths: the depth of each token.
            full: the reading of a full-depth pass; ``None`` without a reference.
            own: (N,) bool, whether a token is full depth's by definition; ``None`` where ``ours``
                and ``full`` come from one pass and so do not differ for such tokens.
            prompt_exit: layers that prompt tokens ran; ``None`` for all.
        """
        again: list[int | None] | None = None
        if full is not None and own is not None:
            pairs = zip(full.emitted.tolist(), own.tolist(), strict=True)
            again = [token if known else None for token, known in pairs]
            full = Reading(
                torch.where(own[:, None], ours.log_probabilities, full.log_probabilities),
                torch.where(own, ours.emitted, full.emitted),
            )
        answers: dict[int, ScoredAnswer] = {}
        used = depths.layers_used.tolist()
        confidence = [None if value != value else value for value in depths.confidence.tolist()]
        emitted = ours.emitted.tolist()
        full_tokens = None if full is None else full.emitted.tolist()
        start = 0
        for one in self._passes:
            part = slice(start, start + len(one.inputs))
            start = part.stop
            for column, number in enumerate(one.members):
                trace = AnswerTrace(
                    prompt_tokens=len(one.prompt) - 1,
                    tokens=self._requests[number].continuation,
                    emitted=tuple(emitted[part]),
                    layers_used=tuple(used[part]),
                    confidence=tuple(confidence[part]),
                    full_depth=None if full_tokens is None else tuple(full_tokens[part]),
                    reference_pass=None if again is None else tuple(again[part]),
                    prompt_exit=prompt_exit,
                )
                answers[number] = ScoredAnswer(
                    tuple(ours.log_probabilities[part, column].tolist()),
                    trace,
                    None if full is None else tuple(full.log_probabilities[part, column].tolist()),
                )
        return [answers[number] for number in range(len(self._requests))]

    def _target_tokens(self) -> Tensor:
        """(N, K) target tokens, K the largest number of requests that share a row."""
        widest = max(len(one.members) for one in self._passes)
        rows: list[list[int]] = []
        for one in self._passes:
            answers = [self._requests[number].continuation for number in one.members]
            answers += [answers[0]] * (widest - len(answers))
            rows += [list(column) for column in zip(*answers, strict=True)]
        return torch.tensor(rows)


def score(
    stack: StatefulStack,
    requests: Sequence[ScoreRequest],
    *,
    policy: ExitPolicy = FULL_DEPTH,
    skipped_state: str = "propagate",
    reference: bool = False,
    softmax_dtype: torch.dtype = torch.float32,
    heads: TrainedHeads | None = None,
    timer: PhaseTimer | None = None,
    sources: Sources | None = None,
) -> list[ScoredAnswer]:
    """Score every request, each token exiting where the policy decides.

    >>> import dynamax_lm
    >>> stack = dynamax_lm.load("tiny").lm.stack
    >>> request = dynamax_lm.ScoreRequest(prompt=(1, 5, 9), continuation=(2, 6))
    >>> policy = dynamax_lm.ExitPolicy((4, 8), "top_prob", threshold=0.0)
    >>> (scored,) = dynamax_lm.score(stack, [request], policy=policy)
    >>> scored.trace.layers_used
    (4, 4)

    Args:
        stack: the decoder.
        requests: what to score, as one batch.
        policy: when a token exits.
        skipped_state: the skipped-state policy.
        reference: whether to score at full depth as well; with a prompt exit, prompts too.
        softmax_dtype: in which the log-probabilities are computed.
        heads: trained classifiers and translators of the exits, if any.
        timer: accumulates the seconds spent.
        sources: of prompt states and full depth; by default all is computed here.

    Returns:
        An answer to each request; with further thresholds from ``sources``, those of one threshold
        after the other.

    Raises:
        ValueError: the policy has an exit that the decoder does not have.
    """
    policy.check_layers(stack.n_layers)
    timer, sources = timer or PhaseTimer(), sources or Computed()
    batch = ScoreBatch(requests, softmax_dtype)
    with timer.measure("prompt"):
        state = batch.prefill(stack, sources, policy.of_prompts)
    full: Reading | None = None
    if (reference or policy.needs_target) and policy.any_exits:
        with timer.measure("reference"):
            whole = state if policy.prompt_exit is None else batch.prefill(stack, sources)
            full = sources.full_depth_scores(lambda: batch.full_depth(stack, whole))
    thresholds = sources.thresholds(policy, batch.n_tokens, state)
    copies, rows = len(thresholds), len(batch.prompt_rows)
    reader = batch.reader(stack, copies)
    with timer.measure("answer"):
        if copies > 1:
            state = stack.take(state, [*range(rows)] * copies)
        depths = run_token_batch(
            stack,
            state,
            batch.token_batch(stack).repeat(copies),
            reader,
            policy=policy,
            cutoffs=_cutoffs(policy, batch, thresholds).to(stack.device),
            skipped_state=skipped_state,
            targets=None if full is None else full.emitted.repeat(copies).to(stack.device),
            session=HeadSession.of(heads, rows * copies),
        )
    found: list[ScoredAnswer] = []
    for ours, where in zip(reader.read().split(copies), depths.split(copies), strict=True):
        own = None
        if reference and full is not None:
            own = batch.by_definition(where, stack.n_layers, skipped_state, policy.prompt_exit)
        compared = (full or ours) if reference else None
        found += batch.answers(ours, where, compared, own, policy.prompt_exit)
    return found


def _cutoffs(policy: ExitPolicy, batch: ScoreBatch, thresholds: Sequence[float]) -> Tensor:
    """The thresholds of each token of the pass, in a copy for each of ``thresholds``."""
    of_steps = policy.cutoffs_at(batch.steps())
    if of_steps is not None:
        return of_steps
    return policy.cutoffs(thresholds).repeat_interleave(batch.n_tokens)
