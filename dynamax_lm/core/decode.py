"""The decoding loop: one token of every unfinished row at a time.

This module has generation requests, token choice from logits, and the partial answer of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamax_lm.core.catchup import too_many_pending
from dynamax_lm.core.head_session import HeadSession
from dynamax_lm.core.loop import catch_up, run_chunk
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.reading import Reading
from dynamax_lm.core.stack import LayerStack, TokenBatch
from dynamax_lm.core.trace import DraftRound


class Chooser(Protocol):
    """Chooses one row's next token; the same arguments always give the same token."""

    def __call__(self, answer: Sequence[int], logits: Tensor) -> int:
        """The next token after ``answer``, from raw ``logits`` (1, V)."""
        ...


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A text to continue.

    Attributes:
        prompt: token ids, at least one.
        max_new: largest number of tokens to generate, at least 1.
        stops: whether an answer ends with a stop sequence, which is part of it.
        chooser: how to choose a token; ``None`` takes the most likely one.
        key: identifies all of the above: equal keys, equal full-depth answers; ``None`` if unknown.
    """

    prompt: tuple[int, ...]
    max_new: int
    stops: Callable[[Sequence[int]], bool]
    chooser: Chooser | None = None
    key: str | None = None

    def finished(self, answer: Sequence[int]) -> bool:
        """Whether ``answer`` is complete."""
        return len(answer) >= self.max_new or self.stops(answer)


@dataclass
class Progress:
    """One row's answer so far.

    Attributes:
        tokens: token ids.
        layers_used: layers run for each, 1..L.
        confidence: of each, at the exit it took or the last one checked.
        exact: the tokens that full depth emits from an exact state, for the oracle; else empty.
        rounds: drafts of lossless decoding; else empty.
    """

    tokens: list[int] = field(default_factory=list)
    layers_used: list[int] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)
    exact: list[int] = field(default_factory=list)
    rounds: list[DraftRound] = field(default_factory=list)


class TokenChoice:
    """Chooses tokens for a chunk: cell i continues ``prefixes[i]`` of request ``owners[i]``."""

    def __init__(
        self, owners: Sequence[GenerateRequest], prefixes: Sequence[Sequence[int]]
    ) -> None:
        self._owners = owners
        self._prefixes = prefixes
        self.tokens = torch.zeros(len(owners), dtype=torch.long)

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        chosen = logits.argmax(-1)
        for place, cell in enumerate(index.tolist()):
            chooser = self._owners[cell].chooser
            if chooser is not None:
                chosen[place] = chooser(self._prefixes[cell], logits[place : place + 1])
        return chosen

    def emit(self, index: Tensor, logits: Tensor) -> None:
        self.tokens[index.cpu()] = self.choose(index, logits).cpu()

    def read(self) -> Reading:
        """The chosen tokens, without target tokens (K = 0)."""
        return Reading(torch.zeros(self.tokens.shape[0], 0), self.tokens)


def answer_inputs(request: GenerateRequest, answer: Sequence[int], steps: int) -> list[int]:
    """The input tokens that produce the first ``steps`` tokens of ``answer``."""
    return [request.prompt[-1], *answer[: steps - 1]]


def decode(
    stack: LayerStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    policy: ExitPolicy,
    skipped_state: str,
    session: HeadSession | None,
    thresholds: Sequence[float] | None = None,
) -> None:
    """Generate until every row has finished; a finished row is no longer run.

    ``thresholds``, one for each row, replace the policy's own.
    """
    exact = stack.take(state, range(len(rows))) if policy.needs_target else None
    cutoffs = None if thresholds is None else policy.cutoffs(thresholds).to(stack.device)
    active = list(range(len(rows)))
    while active:
        last = [(rows[row].tokens or requests[row].prompt)[-1] for row in active]
        chunk = TokenBatch.of([[token] for token in last], active, stack.device)
        owners = [requests[row] for row in active]
        prefixes = [rows[row].tokens for row in active]
        targets: Tensor | None = None
        if exact is not None:
            full = TokenChoice(owners, prefixes)
            run_chunk(stack, exact, chunk, full)
            targets = full.tokens.to(stack.device)
            for row, token in zip(active, full.tokens.tolist(), strict=True):
                rows[row].exact.append(token)
        chosen = TokenChoice(owners, prefixes)
        own = policy.cutoffs_at([len(prefix) for prefix in prefixes])
        if cutoffs is not None:
            own = cutoffs[active]
        depths = run_chunk(
            stack,
            state,
            chunk,
            chosen,
            policy=policy,
            cutoffs=None if own is None else own.to(stack.device),
            skipped_state=skipped_state,
            targets=targets,
            session=session,
        )
        steps = zip(
            active,
            chosen.tokens.tolist(),
            depths.layers_used.tolist(),
            depths.confidence.tolist(),
            strict=True,
        )
        for row, token, used, confidence in steps:
            rows[row].tokens.append(token)
            rows[row].layers_used.append(used)
            rows[row].confidence.append(None if math.isnan(confidence) else confidence)
        active = [row for row in active if not requests[row].finished(rows[row].tokens)]
        catch_up(
            stack, state, [row for row in active if too_many_pending(state.pending.count(row))]
        )
