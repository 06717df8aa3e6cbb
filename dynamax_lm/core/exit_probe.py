"""What every exit says of every token: one full-depth pass that serves all thresholds.

Owns the rule that lets decisions follow without running them: under ``skipped_state=recompute``
every layer sees an exact state whoever left, so that what an exit says of a token does not depend
on the threshold. It does not know prompts, answers or settings.

One measure needs care: a classifier that remembers the tokens it was asked about depends on who
left below. Hidden states are kept for it, and it is asked again for each threshold.

Glossary: N tokens of the pass, E exits, K tokens whose probability is wanted, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamax_lm.core.confidence import ExitView
from dynamax_lm.core.head_session import Advice, TrainedHeads
from dynamax_lm.core.loop import Depths, Emitter, run_chunk
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import Chunk, LayerStack


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a pass where its tokens left.

    Attributes:
        log_probabilities: (N, K) of the tokens asked about, natural logarithm.
        emitted: (N,) token ids.
    """

    log_probabilities: Tensor
    emitted: Tensor

    def split(self, parts: int) -> list[Reading]:
        """The same, cut into equal parts."""
        both = zip(self.log_probabilities.chunk(parts), self.emitted.chunk(parts), strict=True)
        return [Reading(scores, emitted) for scores, emitted in both]


class Reader(Emitter, Protocol):
    """An emitter that can be read when the pass is over."""

    def read(self) -> Reading:
        """What it took."""
        ...


@dataclass(frozen=True, slots=True)
class Survey:
    """One full-depth pass, seen from every exit.

    Attributes:
        chunk: the tokens.
        n_layers: L.
        readings: of each exit, then of full depth.
        confidence: (N, E).
        hidden: (N, D) at each exit, where the measure must be asked again; else empty.
    """

    chunk: Chunk
    n_layers: int
    readings: tuple[Reading, ...]
    confidence: Tensor
    hidden: tuple[Tensor, ...]

    @property
    def full_depth(self) -> Reading:
        """What full depth emits."""
        return self.readings[-1]

    def decide(self, policy: ExitPolicy, heads: TrainedHeads | None) -> tuple[Reading, Depths]:
        """Where each token leaves under a policy that differs in its threshold alone.

        Args:
            policy: with the survey's exits and measure.
            heads: of the survey.
        """
        confidence = self.confidence
        if self.hidden:
            assert heads is not None, "only heads are asked again"
            confidence = self._ask_again(policy, heads)
        exits = len(policy.exit_layers)
        leaves = policy.leaves(confidence)
        leaves = torch.cat([leaves, torch.ones_like(leaves[:, :1])], dim=1)
        place = leaves.int().argmax(1)  # of the first that holds; E stays to the end
        depths = torch.tensor([*policy.exit_layers, self.n_layers])[place]
        last = place.clamp(max=exits - 1)
        every = torch.arange(place.shape[0])
        scores = torch.stack([one.log_probabilities for one in self.readings])
        emitted = torch.stack([one.emitted for one in self.readings])
        return (
            Reading(scores[place, every], emitted[place, every]),
            Depths(depths, confidence[every, last]),
        )

    def _ask_again(self, policy: ExitPolicy, heads: TrainedHeads) -> Tensor:
        """(N, E), NaN where a token had left: each exit hears of those alone that reach it."""
        confidence = torch.full_like(self.confidence, torch.nan)
        advice = Advice(heads, len(self.chunk.rows))
        cells = self.chunk.cells()
        advice.begin(self.chunk, cells)
        running = torch.arange(cells.shape[0], device=cells.device)
        for exit, (layer, hidden) in enumerate(zip(policy.exit_layers, self.hidden, strict=True)):
            if not running.shape[0]:
                break
            if running.shape[0] == cells.shape[0]:
                sure = self.confidence[:, exit]  # all are asked, as they were in the survey
            else:
                asked = advice.ask(layer, hidden[running.to(hidden.device)], running)
                sure = asked.float().clamp(0.0, 1.0).cpu()
            confidence[running.cpu(), exit] = sure
            running = running[~policy.leaves(sure).to(running.device)]
        return confidence


class _Surveyor:
    """Hands what every exit would emit to a reader of that exit, and lets nobody leave."""

    def __init__(self, readers: Sequence[Reader], tokens: int, keep_hidden: bool) -> None:
        self._readers = readers
        self._keep_hidden = keep_hidden
        self.confidence = torch.zeros(tokens, len(readers) - 1)
        self.hidden: list[Tensor] = []

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        return self._readers[-1].choose(index, logits)

    def emit(self, index: Tensor, logits: Tensor) -> None:
        self._readers[-1].emit(index, logits)

    def asked(self, view: ExitView, sure: Tensor) -> None:
        self.confidence[view.index.cpu(), view.exit] = sure.float().cpu()
        self._readers[view.exit].emit(view.index, view.logits)
        if self._keep_hidden:
            if len(self.hidden) == view.exit:
                tokens, width = self.confidence.shape[0], view.hidden.shape[1]
                self.hidden.append(view.hidden.new_zeros(tokens, width))
            self.hidden[view.exit][view.index.to(view.hidden.device)] = view.hidden


def decisions_follow(policy: ExitPolicy, skipped_state: str) -> bool:
    """Whether a full-depth pass tells what every threshold would decide."""
    return bool(policy.exit_layers) and skipped_state == "recompute"


def survey(
    stack: LayerStack,
    state: Any,
    chunk: Chunk,
    readers: Sequence[Reader],
    *,
    policy: ExitPolicy,
    heads: TrainedHeads | None,
) -> Survey:
    """Run ``chunk`` at full depth and ask every exit about every token.

    Args:
        stack: the decoder.
        state: its state, at which nobody waits; afterwards it has seen the chunk.
        chunk: the tokens.
        readers: one for each exit, then one for full depth.
        policy: exits and measure; its threshold does not matter.
        heads: trained heads, if any.
    """
    oracle = policy.needs_target  # what it compares with is known when the pass is over
    measure = "top_prob" if oracle else policy.confidence
    again = measure == "head" and heads is not None and heads.along_tokens
    surveyor = _Surveyor(readers, chunk.cells().shape[0], keep_hidden=again)
    run_chunk(
        stack,
        state,
        chunk,
        surveyor,
        policy=replace(policy, confidence=measure, threshold=1.0),
        advice=Advice.of(heads, len(chunk.rows)),
        onlooker=surveyor,
    )
    readings = tuple(reader.read() for reader in readers)
    confidence = surveyor.confidence
    if oracle:
        full = readings[-1].emitted
        confidence = torch.stack([(one.emitted == full).float() for one in readings[:-1]], dim=1)
    return Survey(chunk, stack.n_layers, readings, confidence, tuple(surveyor.hidden))
