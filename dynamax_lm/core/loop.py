"""The layer loop: one pass of a chunk through a stack, with exits.

Owns when a question is asked and what happens to the tokens that leave. It does not know an
architecture, a tokenizer, a document, or how a token is chosen from logits.

Glossary: N real tokens of the chunk, n tokens asked at an exit, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.confidence import make_confidence
from dynamax_lm.core.departures import DeferExited, Departures, DropExited
from dynamax_lm.core.exit_view import View, slices
from dynamax_lm.core.head_session import HeadSession
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.stack import DecoderState, LayerStack, TokenBatch


class LogitsSink(Protocol):
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


@dataclass(frozen=True, slots=True)
class ExitDecisions:
    """How far each token went.

    Attributes:
        layers_used: (N,) decoder layers run, 1..L.
        confidence: (N,) at the exit where it left, or at the last exit asked; NaN where none was.
    """

    layers_used: Tensor
    confidence: Tensor

    def split(self, parts: int) -> list[ExitDecisions]:
        """The same, cut into equal parts."""
        both = zip(self.layers_used.chunk(parts), self.confidence.chunk(parts), strict=True)
        return [ExitDecisions(used, confidence) for used, confidence in both]


def run_chunk(
    stack: LayerStack,
    state: DecoderState,
    chunk: TokenBatch,
    sink: LogitsSink | None,
    *,
    policy: ExitPolicy = FULL_DEPTH,
    bars: Tensor | None = None,
    skipped_state: str = "propagate",
    targets: Tensor | None = None,
    session: HeadSession | None = None,
) -> ExitDecisions:
    """Run ``chunk`` through the layers; each token leaves where the policy says.

    Args:
        stack: the decoder.
        state: its state; afterwards it has seen the chunk.
        chunk: the new tokens. In a prefill no token may leave.
        sink: takes each token's logits once, at its exit; ``None`` makes no projection.
        policy: when to leave.
        bars: (N,) of each token, or (N, E) also of each exit, in place of the policy's threshold.
        skipped_state: what skipped layers remember of a token that left.
        targets: (N,) full-depth tokens, for the oracle.
        session: trained heads and what they remember of the batch, whose rows are the chunk's.
    """
    recompute = skipped_state == RECOMPUTE
    if recompute:
        chunk = chunk.prepend([state.pending.count(row) for row in chunk.rows])
    run = stack.begin(state, chunk, skipped_state)
    cells: Departures = DeferExited(run, state.pending) if recompute else DropExited(run)
    hidden = stack.embed(run)
    count = run.cells.shape[0]
    device = run.cells.device
    running = torch.arange(count, device=device)
    layers_used = torch.full((count,), stack.n_layers, device=device)
    confidence = torch.full((count,), torch.nan, device=device)
    exits = {layers: number for number, layers in enumerate(policy.exit_layers)}
    measure = make_confidence(policy.confidence, tokens=count, exits=len(exits))
    if session is not None and policy.confidence == "head":
        session.begin(chunk, run.cells)
    for layer in range(stack.n_layers):
        hidden = stack.layer(layer, cells.arrive(layer, hidden), run)
        if layer + 1 not in exits or sink is None or not running.shape[0]:
            continue
        undecided = cells.undecided(hidden)
        leaving = torch.zeros_like(running, dtype=torch.bool)
        for part in slices(stack, running.shape[0]):
            view = View(
                unembed=stack.unembed,
                exit=exits[layer + 1],
                layer=layer + 1,
                index=running[part],
                hidden=undecided[part],
                session=session,
                choose=sink.choose,
                targets=targets,
            )
            sure = measure.ask(view).to(device)
            confidence[view.index] = sure
            own = None if bars is None else bars[view.index]
            going = policy.leaves(
                sure, own[:, view.exit] if own is not None and own.dim() > 1 else own
            )
            leaving[part] = going
            if going.any():
                sink.emit(view.index[going], view.some_logits(going))
        if leaving.any():
            layers_used[running[leaving]] = layer + 1
            hidden = cells.leave(leaving, hidden, layer + 1)
            running = running[~leaving]
    if sink is not None and running.shape[0]:
        undecided = cells.undecided(hidden)
        for part in slices(stack, running.shape[0]):
            sink.emit(running[part], stack.unembed(undecided[part]))
    stack.end(state, run)
    cells.close()
    return ExitDecisions(layers_used, confidence)


def catch_up(stack: LayerStack, state: DecoderState, rows: Sequence[int]) -> None:
    """Run the pending tokens of ``rows`` of ``state`` through the layers that they skipped."""
    rows = [row for row in rows if state.pending.count(row)]
    if rows:
        none = torch.zeros(len(rows), 0, dtype=torch.long, device=stack.device)
        chunk = TokenBatch(none, (0,) * len(rows), tuple(rows))
        run_chunk(stack, state, chunk, None, skipped_state=RECOMPUTE)
