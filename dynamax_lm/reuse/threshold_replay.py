"""With exact state, one full-depth pass determines the exits of every threshold.

Under ``skipped_state=recompute`` the state of every layer is exact whichever tokens exited, so that
an exit's logits and confidence for a token do not depend on the threshold.

There is one exception: the confidence of a classifier with state along tokens depends on which
tokens exited below. Hidden states are kept for it, and it is evaluated again for each threshold.

Glossary: N tokens of the pass, E exits, K target tokens at each, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.core.exit_view import ExitView
from dynamax_lm.core.loop import ExitDecisions
from dynamax_lm.core.measures import ORACLE, facts_of
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.exit_probe import ConfidenceGrid, ExitObserver, HiddenStates, probe_exits
from dynamax_lm.engine.head_session import HeadSession, TrainedHeads
from dynamax_lm.engine.reading import Reader, Reading
from dynamax_lm.engine.stateful_stack import StatefulStack


@dataclass(frozen=True, slots=True)
class ThresholdReplay:
    """One full-depth pass, read at every exit.

    Attributes:
        token_batch: the tokens.
        n_layers: L.
        readings: of each exit, then of full depth.
        confidence: (N, E).
        hidden: (N, D) at each exit, if the measure must be evaluated again; else empty.
    """

    token_batch: TokenBatch
    n_layers: int
    readings: tuple[Reading, ...]
    confidence: Tensor
    hidden: tuple[Tensor, ...]

    @property
    def full_depth(self) -> Reading:
        """The reading of full depth."""
        return self.readings[-1]

    def decide(
        self, policy: ExitPolicy, heads: TrainedHeads | None
    ) -> tuple[Reading, ExitDecisions]:
        """The exit of each token under a policy that differs only in its threshold.

        Args:
            policy: with the replay's exits and measure.
            heads: of the replay.
        """
        confidence = self.confidence
        if self.hidden:
            assert heads is not None, "only heads are evaluated again"
            confidence = self._evaluate_again(policy, heads)
        exits = len(policy.exit_layers)
        exits_at = policy.exiting(confidence, self._cutoffs(policy))
        exits_at = torch.cat([exits_at, torch.ones_like(exits_at[:, :1])], dim=1)
        place = exits_at.int().argmax(1)  # of the first exit; E for full depth
        depths = torch.tensor([*policy.exit_layers, self.n_layers])[place]
        last = place.clamp(max=exits - 1)
        every = torch.arange(place.shape[0])
        scores = torch.stack([one.log_probabilities for one in self.readings])
        emitted = torch.stack([one.emitted for one in self.readings])
        return (
            Reading(scores[place, every], emitted[place, every]),
            ExitDecisions(depths, confidence[every, last]),
        )

    def _cutoffs(self, policy: ExitPolicy) -> Tensor | None:
        """(N, E) cutoffs of a rule; each row of the tokens begins an answer."""
        return policy.cutoffs_at((self.token_batch.slots() % self.token_batch.width).tolist())

    def _evaluate_again(self, policy: ExitPolicy, heads: TrainedHeads) -> Tensor:
        """(N, E), NaN where a token had exited: each exit evaluates only tokens that reach it."""
        confidence = torch.full_like(self.confidence, torch.nan)
        session = HeadSession(heads, len(self.token_batch.rows))
        slots = self.token_batch.slots()
        session.begin(self.token_batch, slots)
        cutoffs = self._cutoffs(policy)
        running = torch.arange(slots.shape[0], device=slots.device)
        for exit, (layer, hidden) in enumerate(zip(policy.exit_layers, self.hidden, strict=True)):
            if not running.shape[0]:
                break
            if running.shape[0] == slots.shape[0]:
                here = self.confidence[:, exit]  # all tokens reach the exit, as in the pass
            else:
                found = session.confidence(layer, hidden[running.to(hidden.device)], running)
                here = found.float().clamp(0.0, 1.0).cpu()
            confidence[running.cpu(), exit] = here
            own = None if cutoffs is None else cutoffs[running.cpu(), exit]
            running = running[~policy.exiting(here, own).to(running.device)]
        return confidence


class _Readings:
    """Passes the logits of every exit to a reader of that exit."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = readers

    def on_exit(self, view: ExitView) -> None:
        self._readers[view.exit].emit(view.index, view.logits)

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        del hidden
        self._readers[-1].emit(index, logits())


def decisions_follow(policy: ExitPolicy, skipped_state: str) -> bool:
    """Whether a full-depth pass determines the exits of every threshold.

    Not with a prompt exit: the pass from its state is not that of the full-depth model.
    """
    measure = facts_of(policy.confidence)
    known = not measure.needs_target or measure is ORACLE  # others may use more than tokens
    exact = skipped_state == "recompute" and policy.prompt_exit is None
    return bool(policy.exit_layers) and exact and known


def replay_thresholds(
    stack: StatefulStack,
    state: Any,
    token_batch: TokenBatch,
    readers: Sequence[Reader],
    *,
    policy: ExitPolicy,
    heads: TrainedHeads | None,
) -> ThresholdReplay:
    """Run ``token_batch`` at full depth and read every exit of every token.

    Args:
        stack: the decoder.
        state: its state, in which no token is pending; afterwards it includes the tokens.
        token_batch: the tokens.
        readers: one for each exit, then one for full depth.
        policy: exits and measure; its threshold is not used.
        heads: trained heads, if any.
    """
    exits = len(policy.exit_layers)
    slots = token_batch.slots()
    tokens = slots.shape[0]
    observers: list[ExitObserver] = [_Readings(readers)]
    grid = states = None
    if not policy.needs_target:  # the oracle's target is known only after the pass
        grid = ConfidenceGrid(policy.confidence, tokens, exits)
        observers.insert(0, grid)
    if policy.reads_heads and heads is not None and heads.along_tokens:
        states = HiddenStates(torch.arange(tokens, device=slots.device), tokens, exits)
        observers.append(states)
    probe_exits(stack, state, token_batch, policy.exit_layers, observers, heads=heads)
    readings = tuple(reader.read() for reader in readers)
    if grid is not None:
        confidence = grid.confidence
    else:
        full = readings[-1].emitted
        confidence = torch.stack([(one.emitted == full).float() for one in readings[:-1]], dim=1)
    hidden = () if states is None else tuple(states.hidden[:-1])
    return ThresholdReplay(token_batch, stack.n_layers, readings, confidence, hidden)
