"""Self-speculative decoding: an exit drafts tokens, and the layers above it verify them.

A draft pass runs the layers below the exit, and the exit's most likely token is drafted as long as
its confidence reaches the threshold. A verification pass runs the layers above over all drafted
tokens of a row at once, from their hidden states at the exit, so that no layer runs twice for a
token. Its logits give full depth's token after each of them: tokens are accepted up to the first
difference, where full depth's token replaces the drafted one, and the rest is removed from the
state. Rows accept different numbers of tokens.

The emitted tokens are full depth's, up to the rounding of sums in another order. A sampled token
uses the same random numbers at the exit and at full depth, so that the text is the one that full
depth samples, and its distribution full depth's.

Sources: LayerSkip (arXiv 2404.16710) and Draft & Verify (arXiv 2309.08168) for Transformers; for
recurrent states, the state before a draft is saved, and the accepted inputs are replayed.

Glossary: n rows of a pass, m tokens of a draft that a row has not verified yet, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.confidence import make_confidence
from dynamax_lm.core.exit_view import View
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import DecoderState, TokenBatch
from dynamax_lm.core.trace import DraftRound
from dynamax_lm.engine.draft_costs import DraftCosts
from dynamax_lm.engine.draft_length import AUTO, DraftLength
from dynamax_lm.engine.head_session import HeadSession
from dynamax_lm.engine.requests import GenerateRequest, OnStep, Progress, TokenChoice
from dynamax_lm.engine.segment import run_segment
from dynamax_lm.engine.stateful_stack import StatefulStack

_READY = 0.75
"""Fraction of rows whose drafts must be complete before a verification pass, which reads the
weights of the layers above once for all of them."""


@dataclass
class _Row:
    """One row: its verified answer, and its draft.

    Attributes:
        inputs: tokens that have not run the layers above the exit.
        hidden: (D,) at the exit, of each of these.
        drafted: tokens that the exit emitted after each of these, or each but the last.
        confidence: of the exit at each.
        checked: whether the exit was checked for the last token, if nothing was drafted after it.
        complete: whether the draft has ended and can be verified.
        ends: whether the answer ends with the last drafted token.
        finished: whether the verified answer is complete.
        heads: the heads' state after each token, and the row's place in it; ``None`` where the exit
            was not checked, or the state does not depend on earlier tokens.
    """

    number: int
    request: GenerateRequest
    progress: Progress
    length: DraftLength
    inputs: list[int] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)
    checked: bool = False
    complete: bool = False
    ends: bool = False
    finished: bool = False
    heads: list[tuple[Any, int] | None] = field(default_factory=list)

    @property
    def with_draft(self) -> list[int]:
        """The answer, its draft included."""
        return self.progress.tokens + self.drafted

    @property
    def last(self) -> int:
        """The token to run next."""
        return (self.drafted or self.progress.tokens or self.request.prompt)[-1]

    @property
    def may_draft(self) -> bool:
        """Whether the exit may draft: the draft is not full, and the next token is not the last."""
        drafted = len(self.drafted)
        after = len(self.progress.tokens) + drafted + 1
        return drafted < self.length.now and after < self.request.max_new

    def ran(self, hidden: Tensor) -> None:
        """The next token has run the layers below the exit: (D,) ``hidden``."""
        self.inputs.append(self.last)
        self.hidden.append(hidden)
        self.confidence.append(None)
        self.heads.append(None)
        self.checked, self.complete = False, True

    def draft(self, token: int) -> None:
        """The exit emits ``token`` after the last one that ran."""
        self.drafted.append(token)
        self.complete = self.ends = self.request.finished(self.with_draft)

    def accept(self, full_depth: Sequence[int], depth: int, n_layers: int) -> int:
        """Append full depth's tokens up to and including the first that differs from the draft.

        Returns:
            How many of the m tokens stay in the state.
        """
        pairs = enumerate(zip(self.drafted, full_depth, strict=False))
        differs = (step for step, (ours, full) in pairs if ours != full)
        accepted = next(differs, min(len(self.drafted), len(full_depth)))
        stays = min(accepted + 1, len(full_depth))
        progress, start = self.progress, len(self.progress.tokens)
        progress.tokens += full_depth[:stays]
        progress.layers_used += [n_layers] * stays
        progress.confidence += self.confidence[:stays]
        if stays > accepted:  # the last of them is full depth's own; drafted ones were checked
            self.finished = self.request.finished(progress.tokens)
        else:
            self.finished = self.ends
        drafted = tuple(self.drafted)
        progress.rounds.append(
            DraftRound(
                start=start,
                inputs=len(full_depth),
                drafted=drafted,
                depths=(depth,) * len(drafted),
                accepted=accepted,
                checked=self.checked,
            )
        )
        inputs, checks = len(full_depth), progress.rounds[-1].checks
        self.length.verified(len(drafted), accepted, inputs=inputs, checks=checks)
        self.inputs, self.hidden = [], []
        self.drafted, self.confidence, self.heads = [], [], []
        self.complete = self.ends = False
        return stays


class LosslessDecoding:
    """Rows in flight, each with a draft of its own.

    Args:
        stack: the decoder.
        state: of the rows; no token is pending.
        policy: its one exit drafts, as long as the confidence reaches the threshold.
        session: trained heads with a state of these rows, if any.
        draft_length: largest number of tokens in a draft, at least 1, or ``AUTO``.

    Raises:
        ValueError: several exits, or none, or a prompt exit.
    """

    def __init__(
        self,
        stack: StatefulStack,
        state: DecoderState,
        policy: ExitPolicy,
        session: HeadSession | None,
        draft_length: int = AUTO,
    ) -> None:
        if policy.prompt_exit is not None:
            raise ValueError("a prompt exit changes the state that full depth would have")
        if len(policy.exit_layers) != 1:
            raise ValueError(f"one exit drafts, not {len(policy.exit_layers)}")
        self._stack, self._state, self._policy = stack, state, policy
        self._session, self._draft_length = session, draft_length
        self._costs = DraftCosts.of(stack.costs, policy)
        self._active: list[_Row] = []

    def __bool__(self) -> bool:
        """Whether any row has not finished."""
        return bool(self._active)

    def replace(
        self, rows: Sequence[int], source: Any, taken: Sequence[int], exact: Any = None
    ) -> None:
        """``rows``, which have finished, get the prompt states ``taken`` of ``source``."""
        del exact  # full depth needs no state of its own here
        self._stack.put(self._state, rows, source, taken)
        if self._session is not None:
            self._session.forget(rows)

    def start(self, row: int, request: GenerateRequest, progress: Progress) -> None:
        """Continue ``request`` in ``row``, whose state is that of its prompt and ``progress``."""
        length = DraftLength(self._draft_length, self._costs)
        self._active.append(_Row(row, request, progress, length))

    def step(self) -> list[int]:
        """Draft one token in each row whose draft is not complete, and verify if enough are.

        Returns:
            The rows that have finished.
        """
        drafting = [row for row in self._active if not row.complete]
        if drafting:
            _draft(self._stack, self._state, drafting, self._policy, self._session)
        complete = [row for row in self._active if row.complete]
        if len(complete) < max(1, _READY * len(self._active)):
            return []
        (depth,) = self._policy.exit_layers
        _verify(self._stack, self._state, complete, depth, self._session)
        self._active = [row for row in self._active if not row.finished]
        if finished := [row.number for row in complete if row.finished]:
            self._stack.end_draft(self._state, finished)
        return finished


def decode_lossless(
    stack: StatefulStack,
    state: DecoderState,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    policy: ExitPolicy,
    session: HeadSession | None,
    draft_length: int = AUTO,
    on_step: OnStep | None = None,
) -> None:
    """Generate what full depth generates, until every row of ``state`` has finished.

    ``on_step`` is called with ``rows``, the answers so far, after each step. For the rest see
    `LosslessDecoding`.
    """
    decoding = LosslessDecoding(stack, state, policy, session, draft_length)
    for row, (request, progress) in enumerate(zip(requests, rows, strict=True)):
        decoding.start(row, request, progress)
    while decoding:
        decoding.step()
        if on_step is not None:
            on_step(rows)


def _draft(
    stack: StatefulStack,
    state: DecoderState,
    rows: Sequence[_Row],
    policy: ExitPolicy,
    session: HeadSession | None,
) -> None:
    """Run one token of each row through the layers below the exit, and check the exit."""
    if starting := [row.number for row in rows if not row.hidden]:
        stack.begin_draft(state, starting)
    (depth,) = policy.exit_layers
    ids = torch.tensor([[row.last] for row in rows], device=stack.device)
    numbers = tuple(row.number for row in rows)
    batch = TokenBatch(ids, (1,) * len(rows), numbers)
    hidden = run_segment(stack, state, batch, range(depth), None, RECOMPUTE)
    if session is not None and policy.reads_heads:
        session.begin(batch, batch.slots())
    checked = [place for place, row in enumerate(rows) if row.may_draft]
    for row, state_at_exit in zip(rows, hidden.unbind(), strict=True):
        row.ran(state_at_exit)
    if not checked:
        return
    index = torch.tensor(checked, device=stack.device)
    some = hidden if len(checked) == len(rows) else hidden[index.to(hidden.device)]
    choose = None  # the most likely token
    if any(row.request.chooser is not None for row in rows):
        choose = TokenChoice([row.request for row in rows], [row.with_draft for row in rows]).choose
    view = View(stack.unembed, 0, depth, index, some, session, choose=choose, stack=stack)
    confidence = make_confidence(policy.confidence, tokens=len(rows), exits=1).ask(view)
    if session is not None and session.along_tokens and policy.reads_heads:
        taken = session.take([rows[place].number for place in checked])
        for number, place in enumerate(checked):
            rows[place].heads[-1] = taken, number
    steps = [len(rows[place].with_draft) for place in checked] if policy.rule else ()
    drafting = policy.exiting(confidence, _cutoffs(policy, steps))
    tokens = iter(view.some_drafts(drafting).tolist() if drafting.any() else ())
    for place, value, drafts in zip(checked, confidence.tolist(), drafting.tolist(), strict=True):
        row = rows[place]
        row.checked = True
        row.confidence[-1] = None if math.isnan(value) else value
        if drafts:
            row.draft(next(tokens))


def _cutoffs(policy: ExitPolicy, steps: Sequence[int]) -> Tensor | None:
    """(n,) the least confidence at which each token is drafted; ``steps`` precede it."""
    cutoffs = policy.cutoffs_at(steps)
    return None if cutoffs is None else cutoffs[:, 0]


def _verify(
    stack: StatefulStack,
    state: DecoderState,
    rows: Sequence[_Row],
    depth: int,
    session: HeadSession | None,
) -> None:
    """Run the drafts of ``rows`` through the layers above the exit, and keep what is accepted."""
    counts = tuple(len(row.hidden) for row in rows)
    numbers = tuple(row.number for row in rows)
    token_batch = TokenBatch.of_pending([row.inputs for row in rows], numbers, stack.device)
    hidden = torch.stack([one for row in rows for one in row.hidden])
    hidden = run_segment(stack, state, token_batch, range(depth, stack.n_layers), hidden, RECOMPUTE)
    owners = [row.request for row in rows for _ in row.hidden]
    prefixes = [
        row.progress.tokens + row.drafted[:step] for row in rows for step in range(len(row.hidden))
    ]
    choice = TokenChoice(owners, prefixes)
    logits = stack.unembed(hidden)
    tokens = iter(choice.choose(torch.arange(len(owners)), logits).tolist())
    kept: dict[int, int] = {}
    given: dict[int, int] = {}
    for row, count in zip(rows, counts, strict=True):
        heads = list(row.heads)
        stays = row.accept([next(tokens) for _ in range(count)], depth, stack.n_layers)
        if stays < count and not row.finished:
            kept[row.number], given[row.number] = stays, count
            if session is not None and (before := heads[stays - 1]) is not None:
                session.put(row.number, *before)
    if kept:
        stack.withdraw(state, kept, given)
