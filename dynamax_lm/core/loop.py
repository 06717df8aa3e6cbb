"""The layer loop: one pass of a token batch through a decoder, with exits.

After each exit layer the confidence of the running tokens is computed; tokens that reach the
threshold emit there and run no further layer in this pass.

Glossary: N real tokens of the token batch, n tokens checked at an exit, E exits, D width,
V vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.confidence import make_confidence
from dynamax_lm.core.exit_check import ExitCheck, LogitsSink
from dynamax_lm.core.exit_view import PassHeads
from dynamax_lm.core.exited_tokens import DeferExited, DropExited, RunningSlots
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.stack import DecoderState, LayerStack, TokenBatch


@dataclass(frozen=True, slots=True)
class ExitDecisions:
    """The depth of each token.

    Attributes:
        layers_used: (N,) decoder layers run, 1..L.
        confidence: (N,) at the exit it took, or at the last exit checked; NaN where none was.
    """

    layers_used: Tensor
    confidence: Tensor

    def split(self, parts: int) -> list[ExitDecisions]:
        """The decisions in equal parts, along N."""
        both = zip(self.layers_used.chunk(parts), self.confidence.chunk(parts), strict=True)
        return [ExitDecisions(used, confidence) for used, confidence in both]


def run_token_batch(
    stack: LayerStack,
    state: DecoderState,
    token_batch: TokenBatch,
    sink: LogitsSink | None,
    *,
    policy: ExitPolicy = FULL_DEPTH,
    cutoffs: Tensor | None = None,
    skipped_state: str = "propagate",
    targets: Tensor | None = None,
    session: PassHeads | None = None,
) -> ExitDecisions:
    """Run ``token_batch`` through the layers; each token exits where the policy decides.

    Args:
        stack: the decoder.
        state: its state; afterwards it includes the token batch.
        token_batch: the new tokens. In a prefill no token may exit.
        sink: receives each token's logits once, at its exit; with ``None`` none are computed.
        policy: when a token exits.
        cutoffs: (N,) of each token, or (N, E) of each token and exit, in place of the policy's
            threshold; see ``ExitPolicy.cutoffs``.
        skipped_state: the skipped-state policy.
        targets: (N,) full-depth tokens, for the oracle.
        session: trained heads and their state for the batch, whose rows are the token batch's.
    """
    recompute = skipped_state == RECOMPUTE
    if recompute:
        token_batch = token_batch.prepend([state.pending.ids(row) for row in token_batch.rows])
    run = stack.begin(state, token_batch, skipped_state)
    slots: RunningSlots = DeferExited(run, state.pending) if recompute else DropExited(run)
    hidden = stack.embed(run)
    count = run.slots.shape[0]
    device = run.slots.device
    running = torch.arange(count, device=device)
    layers_used = torch.full((count,), stack.n_layers, device=device)
    confidence = torch.full((count,), torch.nan, device=device)
    exits = {layers: number for number, layers in enumerate(policy.exit_layers)}
    check: ExitCheck | None = None
    if sink is not None:
        measure = make_confidence(policy.confidence, tokens=count, exits=len(exits))
        check = ExitCheck(stack, policy, measure, sink, session, targets)
    if session is not None and policy.reads_heads:
        session.begin(token_batch, run.slots)
    for layer in range(stack.n_layers):
        hidden = stack.layer(layer, slots.resume(layer, hidden), run)
        if layer + 1 not in exits or check is None or not running.shape[0]:
            continue
        own = None if cutoffs is None else cutoffs[running]
        exiting, confidence[running] = check.at_exit(
            exits[layer + 1], running, slots.not_exited(hidden), own
        )
        if exiting.any():
            layers_used[running[exiting]] = layer + 1
            hidden = slots.remove(exiting, hidden, layer + 1)
            running = running[~exiting]
    if check is not None and running.shape[0]:
        check.emit(running, slots.not_exited(hidden))
    stack.end(state, run)
    slots.close()
    return ExitDecisions(layers_used, confidence)
