"""Decoding with continuous batching: rows run segment by segment, each at its own token.

Rows that exit emit and start over with their next token, while the others of the same step go on to
the next segment with whatever rows stand there. A token that has left, and that no check has
projected to the vocabulary, is emitted before its row begins the next one, so that one product
serves all rows that begin with it. The state that skipped layers keep of a token that exited is
computed with the next token of its row that runs them, so that the weights are read once for both
(``pending``).

Glossary: F rows in flight, n rows of a step, N tokens of a step (the n rows' own, and pending ones
that run with them), D width, E exits, L layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.core.catchup import RECOMPUTE, too_many_pending
from dynamax_lm.core.confidence import Confidence, make_confidence
from dynamax_lm.core.exit_check import ExitCheck
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.measures import facts_of
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import DecoderState, TokenBatch
from dynamax_lm.engine.head_session import HeadSession
from dynamax_lm.engine.requests import GenerateRequest, OnStep, Progress, TokenChoice
from dynamax_lm.engine.scheduler import Scheduler
from dynamax_lm.engine.segment import run_segment
from dynamax_lm.engine.stateful_stack import StatefulStack


class Decoding:
    """Rows in flight.

    Args:
        stack: the decoder.
        state: of the rows.
        rows: F, how many rows it has.
        policy: when a token exits.
        skipped_state: the skipped-state policy.
        session: trained heads with a state of F rows, if any.
        batch_size: largest number of rows in a step.
        exact: a state of the rows at full depth, for a measure that needs full depth's tokens, if
            ``state`` is none; it is not changed.
    """

    def __init__(
        self,
        stack: StatefulStack,
        state: DecoderState,
        rows: int,
        policy: ExitPolicy,
        skipped_state: str,
        session: HeadSession | None,
        batch_size: int,
        exact: DecoderState | None = None,
    ) -> None:
        self._stack, self.state, self._policy = stack, state, policy
        self._skipped_state, self._session = skipped_state, session
        self._bounds = (0, *policy.exit_layers, stack.n_layers)
        self._batch_size = batch_size
        self._scheduler = Scheduler(len(self._bounds) - 1, batch_size)
        self._unemitted: dict[int, Tensor] = {}
        self._depth = [0] * rows
        self._choice = TokenChoice.of_rows(rows)
        self._progress = [Progress() for _ in range(rows)]
        self._confidence: list[float] = [math.nan] * rows
        self._cutoffs: Tensor | None = None
        self.exact: DecoderState | None = None
        targets = None
        if policy.needs_target:
            self.exact = stack.take(state if exact is None else exact, range(rows))
            targets = torch.zeros(rows, dtype=torch.long, device=stack.device)
        self._measures = [self._new_measure()] * rows
        self._check = ExitCheck(stack, policy, self._measures[0], self._choice, session, targets)

    def __bool__(self) -> bool:
        """Whether any row has not finished."""
        return bool(self._scheduler)

    def replace(
        self, rows: Sequence[int], source: Any, taken: Sequence[int], exact: Any = None
    ) -> None:
        """``rows``, which have finished, get the prompt states ``taken`` of ``source``.

        ``exact`` has these prompts at full depth, if ``source`` has not.
        """
        self._stack.put(self.state, rows, source, taken)
        if self.exact is not None:
            self._stack.put(self.exact, rows, source if exact is None else exact, taken)
        if self._session is not None:
            self._session.forget(rows)

    def start(
        self, row: int, request: GenerateRequest, progress: Progress, threshold: float | None = None
    ) -> None:
        """Continue ``request`` in ``row``, whose state is that of its prompt and ``progress``.

        Args:
            row: of the state, not in flight.
            request: what to continue.
            progress: its answer so far, which grows.
            threshold: in place of the policy's; for all rows or for none.
        """
        self._choice.owners[row], self._choice.prefixes[row] = request, progress.tokens
        self._progress[row] = progress
        if threshold is not None:
            if self._cutoffs is None:
                self._cutoffs = torch.zeros(len(self._progress), device=self._stack.device)
            self._cutoffs[row] = self._policy.cutoffs([threshold])[0]
        self._scheduler.ready(row, 0)

    def step(self) -> list[int]:
        """Run one segment for some rows, or emit tokens that have exited.

        Returns:
            The rows that have finished.
        """
        segment, rows = self._scheduler.next()
        if segment == 0:
            if unemitted := [row for row in rows if row in self._unemitted]:
                finished = self._emit_kept(unemitted)
                # Requests that replace the finished ones may begin with them.
                self._scheduler.put_back(0, [row for row in rows if row not in finished])
                return finished
            self._begin_tokens(rows)
        depth = self._bounds[segment + 1]
        hidden = self._run(self._bounds[segment], depth, rows)
        index = torch.tensor(rows, device=self._stack.device)
        if depth < self._stack.n_layers:
            exiting = self._ask(segment, index, hidden)
        else:
            exiting = [True] * len(rows)
            if self._policy.any_exits and len(rows) < self._batch_size:
                self._keep(index, hidden)
            else:
                self._check.emit(index, hidden)
        exited = [row for row, exits in zip(rows, exiting, strict=True) if exits]
        for row in exited:
            self._depth[row] = depth
        finished = self._emitted([row for row in exited if row not in self._unemitted])
        for row, exits in zip(rows, exiting, strict=True):
            if row not in finished:
                self._scheduler.ready(row, 0 if exits else segment + 1)
        return finished

    def _keep(self, index: Tensor, hidden: Tensor) -> None:
        """The rows ``index`` (n,) emit later, from ``hidden`` (n, D)."""
        self._unemitted.update(zip(index.tolist(), hidden.split(1), strict=True))

    def _emit_kept(self, rows: Sequence[int]) -> list[int]:
        """Emit the exited tokens of ``rows``; return the rows that have finished."""
        parts = [self._unemitted.pop(row) for row in rows]
        hidden = torch.cat([part.to(parts[0].device) for part in parts])
        self._check.emit(torch.tensor(rows, device=self._stack.device), hidden)
        return self._emitted(rows)

    def _begin_tokens(self, rows: Sequence[int]) -> None:
        """The next token of each of ``rows`` begins."""
        if self.exact is not None:
            token_batch = self._new_tokens(rows)
            full = TokenChoice(
                [self._choice.owners[row] for row in rows],
                [self._choice.prefixes[row] for row in rows],
            )
            run_token_batch(self._stack, self.exact, token_batch, full)
            assert self._check.targets is not None
            self._check.targets[list(rows)] = full.tokens.to(self._stack.device)
            for row, token in zip(rows, full.tokens.tolist(), strict=True):
                self._progress[row].exact.append(token)
        if self._session is not None and self._policy.reads_heads:
            self._session.begin_tokens(torch.tensor(rows, device=self._stack.device))
        if facts_of(self._policy.confidence).outside:  # it may keep anything about earlier exits
            measure = self._new_measure()
            for row in rows:
                self._measures[row] = measure
        for row in rows:
            self._confidence[row] = math.nan

    def _new_measure(self) -> Confidence:
        exits = len(self._policy.exit_layers)
        return make_confidence(self._policy.confidence, tokens=len(self._progress), exits=exits)

    def _new_tokens(self, rows: Sequence[int]) -> TokenBatch:
        """The token that each of ``rows`` runs next."""
        return TokenBatch.of([[self._last(row)] for row in rows], rows, self._stack.device)

    def _last(self, row: int) -> int:
        """The last token of ``row``, of its prompt or answer."""
        owner = self._choice.owners[row]
        assert owner is not None
        return (self._choice.prefixes[row] or owner.prompt)[-1]

    def _run(self, first: int, last: int, rows: Sequence[int]) -> Tensor:
        """(n, D) the rows' tokens after layers ``first``..``last - 1``; pending ones run with them.

        A token in flight is the last pending token of its row.
        """
        stack, pending = self._stack, self.state.pending
        if first == 0:
            token_batch = self._new_tokens(rows)
            hidden = run_segment(
                stack, self.state, token_batch, range(last), None, self._skipped_state
            )
            if last < stack.n_layers:
                for row, one in zip(rows, hidden.split(1), strict=True):
                    pending.append(row, last, self._last(row), one)
            return hidden
        return self._run_pending(first, last, rows, running=1)

    def _run_pending(self, first: int, last: int, rows: Sequence[int], running: int) -> Tensor:
        """Run the pending tokens of ``rows`` that have run ``first`` layers.

        Args:
            first: the next layer.
            last: the layer before which they stop.
            rows: each with such tokens.
            running: how many tokens of each row run in full, 1 or 0; of the others, except under
                ``recompute``, the state of the layers alone is computed.

        Returns:
            (n, D) hidden states of each row's last token; without rows where none runs.
        """
        stack, pending = self._stack, self.state.pending
        counts = [pending.stopped_at(row, first) for row in rows]
        tokens = [pending.ids(row)[-count:] for row, count in zip(rows, counts, strict=True)]
        token_batch = TokenBatch.of_pending(tokens, rows, stack.device)
        parts = [pending.last(row, n) for row, n in zip(rows, counts, strict=True)]
        hidden = torch.cat([part.to(parts[0].device) for part in parts])
        frozen = self._skipped_state != RECOMPUTE and (running == 0 or max(counts) > 1)
        hidden = run_segment(
            *(stack, self.state, token_batch, range(first, last), hidden, self._skipped_state),
            running=running if frozen else None,
        )
        done = last == stack.n_layers
        sizes = [running] * len(rows) if frozen else counts
        for row, count, new in zip(rows, counts, hidden.split(sizes), strict=True):
            pending.advance(row, count, last, new, done=done)
        if hidden.shape[0] <= len(rows):
            return hidden
        return hidden[(torch.tensor(counts).cumsum(0) - 1).to(hidden.device)]

    def _ask(self, exit: int, index: Tensor, hidden: Tensor) -> list[bool]:
        """Check an exit for the rows ``index`` (n,), and emit those that exit: which ones."""
        rows = index.tolist()
        cutoffs = None if self._cutoffs is None else self._cutoffs[index]
        if self._policy.rule is not None:
            steps = [len(self._choice.prefixes[row]) for row in rows]
            by_rule = self._policy.cutoffs_at(steps)
            cutoffs = None if by_rule is None else by_rule.to(index.device)
        exiting = [False] * len(rows)
        by_measure: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            by_measure.setdefault(id(self._measures[row]), []).append(place)
        for places in by_measure.values():
            some, states, own = index, hidden, cutoffs
            if len(by_measure) > 1:
                at = torch.tensor(places, device=index.device)
                some, states = index[at], hidden[at.to(hidden.device)]
                own = None if cutoffs is None else cutoffs[at]
            check = dataclasses.replace(  # which refers to this object, and is dropped at once
                self._check, measure=self._measures[rows[places[0]]], later=self._keep
            )
            checked = check.at_exit(exit, some, states, own)
            pairs = zip(checked.exiting.tolist(), checked.confidence.tolist(), strict=True)
            for place, (exits, confidence) in zip(places, pairs, strict=True):
                exiting[place], self._confidence[rows[place]] = exits, confidence
        return exiting

    def _emitted(self, rows: Sequence[int]) -> list[int]:
        """Note the token that each of ``rows`` emitted: those that have finished."""
        finished: list[int] = []
        going_on: list[int] = []
        tokens = self._choice.tokens
        for row in rows:
            progress, confidence = self._progress[row], self._confidence[row]
            progress.tokens.append(int(tokens[row]))
            progress.layers_used.append(self._depth[row])
            progress.confidence.append(None if math.isnan(confidence) else confidence)
            owner = self._choice.owners[row]
            assert owner is not None
            (finished if owner.finished(progress.tokens) else going_on).append(row)
        self._flush([r for r in going_on if too_many_pending(self.state.pending.count(r))])
        return finished

    def _flush(self, rows: Sequence[int]) -> None:
        """Run all pending tokens of ``rows`` to the last layer."""
        if not rows:
            return
        for first, last in zip(self._bounds[1:-1], self._bounds[2:], strict=True):
            some = [row for row in rows if self.state.pending.stopped_at(row, first)]
            if some:
                self._run_pending(first, last, some, running=0)


def decode(
    stack: StatefulStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[Progress],
    policy: ExitPolicy,
    skipped_state: str,
    session: HeadSession | None,
    thresholds: Sequence[float] | None = None,
    on_step: OnStep | None = None,
    exact: DecoderState | None = None,
) -> None:
    """Generate until every row of ``state`` has finished.

    ``thresholds``, one for each row, replace the policy's own. ``on_step`` is called with ``rows``
    after each step, in which some of them may have emitted a token. For ``exact`` see `Decoding`.
    """
    count = len(rows)
    decoding = Decoding(
        *(stack, state, count, policy, skipped_state, session, max(1, count)), exact=exact
    )
    own = [None] * count if thresholds is None else thresholds
    for row, (request, progress, threshold) in enumerate(zip(requests, rows, own, strict=True)):
        decoding.start(row, request, progress, threshold)
    while decoding:
        decoding.step()
        if on_step is not None:
            on_step(rows)
