"""The layer loop: one pass of a chunk through a stack, with exits.

Owns when a question is asked and what happens to the tokens that leave. It does not know an
architecture, a tokenizer, a document, or how a token is chosen from logits.

Glossary: N real tokens of the chunk, n tokens asked at an exit, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamax_lm.core.confidence import ExitView, make_confidence
from dynamax_lm.core.departures import CatchUp, Departures, Gone
from dynamax_lm.core.head_session import Advice
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.stack import Chunk, LayerStack

_LOGITS_AT_ONCE = 1 << 25
"""Most logits held at a time: 128 MiB in float32."""


class Emitter(Protocol):
    """Takes the logits of tokens that leave."""

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        """(n,) the token each would emit; nothing is remembered.

        Args:
            index: (n,) which of the chunk's N tokens these are.
            logits: (n, V) raw logits.
        """
        ...

    def emit(self, index: Tensor, logits: Tensor) -> None:
        """Take the logits for good; called once per token of the chunk."""
        ...


class Onlooker(Protocol):
    """Sees every question of a pass."""

    def asked(self, view: ExitView, sure: Tensor) -> None:
        """Some tokens were asked at an exit, which is ``sure`` (n,) of them."""
        ...


@dataclass(frozen=True, slots=True)
class Depths:
    """How far each token went.

    Attributes:
        layers_used: (N,) decoder layers run, 1..L.
        confidence: (N,) at the exit where it left, or at the last exit asked; NaN where none was.
    """

    layers_used: Tensor
    confidence: Tensor

    def split(self, parts: int) -> list[Depths]:
        """The same, cut into equal parts."""
        both = zip(self.layers_used.chunk(parts), self.confidence.chunk(parts), strict=True)
        return [Depths(used, confidence) for used, confidence in both]


@dataclass
class _View:
    """One slice of the tokens asked at one exit; makes at most one vocabulary projection."""

    stack: LayerStack
    emitter: Emitter
    exit: int
    layer: int
    index: Tensor
    hidden: Tensor
    targets: Tensor | None
    advice: Advice | None
    _chosen: Tensor | None = field(default=None, init=False)

    @cached_property
    def logits(self) -> Tensor:
        return self.project(self.hidden)

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of ``hidden`` (n, D) at this exit: translated, if heads bring a translator."""
        if self.advice is not None:
            hidden = self.advice.translate(self.layer, hidden)
        return self.stack.unembed(hidden)

    @property
    def emission(self) -> Tensor:
        if self._chosen is None:
            self._chosen = self.emitter.choose(self.index, self.logits)
        return self._chosen

    @property
    def target(self) -> Tensor:
        if self.targets is None:
            raise ValueError("confidence 'oracle' needs the full-depth tokens of the chunk")
        return self.targets[self.index].to(self.hidden.device)

    @property
    def trained(self) -> Tensor:
        if self.advice is None:
            raise ValueError("confidence 'head' needs trained heads")
        return self.advice.ask(self.layer, self.hidden, self.index)


def run_chunk(
    stack: LayerStack,
    state: Any,
    chunk: Chunk,
    emitter: Emitter | None,
    *,
    policy: ExitPolicy = FULL_DEPTH,
    bars: Tensor | None = None,
    skipped_state: str = "propagate",
    targets: Tensor | None = None,
    advice: Advice | None = None,
    onlooker: Onlooker | None = None,
) -> Depths:
    """Run ``chunk`` through the layers; each token leaves where the policy says.

    Args:
        stack: the decoder.
        state: its state; afterwards it has seen the chunk.
        chunk: the new tokens. In a prefill no token may leave.
        emitter: takes each token's logits once, at its exit; ``None`` makes no projection.
        policy: when to leave.
        bars: (N,) of each token, in place of the policy's threshold.
        skipped_state: what skipped layers remember of a token that left.
        targets: (N,) full-depth tokens, for the oracle.
        advice: trained heads and what they remember of the batch, whose rows are the chunk's.
        onlooker: who sees what was asked.
    """
    recompute = skipped_state == "recompute"
    if recompute:
        chunk = state.waiting.widen(chunk)
    run = stack.begin(state, chunk, skipped_state)
    cells: Departures = CatchUp(run, state.waiting) if recompute else Gone(run)
    hidden = stack.embed(run)
    count = run.cells.shape[0]
    device = run.cells.device
    running = torch.arange(count, device=device)
    layers_used = torch.full((count,), stack.n_layers, device=device)
    confidence = torch.full((count,), torch.nan, device=device)
    exits = {layers: number for number, layers in enumerate(policy.exit_layers)}
    measure = make_confidence(policy.confidence, tokens=count, exits=len(exits))
    if advice is not None and policy.confidence == "head":
        advice.begin(chunk, run.cells)
    for layer in range(stack.n_layers):
        hidden = stack.layer(layer, cells.arrive(layer, hidden), run)
        if layer + 1 not in exits or emitter is None or not running.shape[0]:
            continue
        undecided = cells.undecided(hidden)
        leaving = torch.zeros_like(running, dtype=torch.bool)
        for part in _slices(stack, running.shape[0]):
            view = _View(
                stack=stack,
                emitter=emitter,
                exit=exits[layer + 1],
                layer=layer + 1,
                index=running[part],
                hidden=undecided[part],
                targets=targets,
                advice=advice,
            )
            sure = measure.ask(view).to(device)
            if onlooker is not None:
                onlooker.asked(view, sure)
            confidence[view.index] = sure
            going = policy.leaves(sure, None if bars is None else bars[view.index])
            leaving[part] = going
            if going.any():
                logits = _some(view, going)
                emitter.emit(view.index[going], logits)
        if leaving.any():
            layers_used[running[leaving]] = layer + 1
            hidden = cells.leave(leaving, hidden, layer + 1)
            running = running[~leaving]
    if emitter is not None and running.shape[0]:
        undecided = cells.undecided(hidden)
        for part in _slices(stack, running.shape[0]):
            emitter.emit(running[part], stack.unembed(undecided[part]))
    stack.end(state, run)
    cells.close()
    return Depths(layers_used, confidence)


def catch_up(stack: LayerStack, state: Any, rows: Sequence[int]) -> None:
    """Run all that wait in ``rows`` of ``state`` through the layers that they skipped."""
    rows = [row for row in rows if state.waiting.count(row)]
    if rows:
        none = torch.zeros(len(rows), 0, dtype=torch.long, device=stack.device)
        chunk = Chunk(none, (0,) * len(rows), tuple(rows))
        run_chunk(stack, state, chunk, None, skipped_state="recompute")


def _some(view: _View, going: Tensor) -> Tensor:
    """Logits of the tokens that go: those a check made, or one projection of just these."""
    if "logits" in view.__dict__:
        return view.logits[going.to(view.logits.device)]
    return view.project(view.hidden[going.to(view.hidden.device)])


def _slices(stack: LayerStack, count: int) -> Iterator[slice]:
    """Cut the tokens so that their logits stay within the memory bound."""
    rows = max(1, _LOGITS_AT_ONCE // stack.vocab_size)
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))
