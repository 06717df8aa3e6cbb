"""One segment: a stretch of layers, run for tokens of several rows in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from dynamax_lm.core.stack import DecoderState, TokenBatch
from dynamax_lm.engine.stateful_stack import StatefulStack


def run_segment(
    stack: StatefulStack,
    state: DecoderState,
    token_batch: TokenBatch,
    layers: range,
    hidden: Tensor | None,
    skipped_state: str,
    running: int | None = None,
) -> Tensor:
    """Run ``layers`` over ``token_batch``, by a recorded step where the decoder has one.

    Args:
        stack: the decoder.
        state: of the rows; afterwards it includes the token batch.
        token_batch: new tokens, or pending ones, of N rows.
        layers: to run.
        hidden: (W, D) of all tokens, row after row; ``None`` before the first layer.
        skipped_state: the skipped-state policy, for tokens that do not run.
        running: how many tokens of each row run, 1 (its last one) or 0; ``None`` for all.

    Returns:
        (N, D), (0, D) or (W, D) of the tokens that ran.
    """
    replayed = stack.replay(state, token_batch, layers, hidden, skipped_state, running)
    if replayed is not None:
        return replayed
    run = stack.begin(state, token_batch, skipped_state)
    hidden = stack.embed(run) if hidden is None else hidden
    if running is not None:
        stays = torch.zeros(hidden.shape[0], dtype=torch.bool)
        if running:
            stays[torch.tensor(token_batch.lengths).cumsum(0) - 1] = True
        run.freeze(~stays, hidden)
        hidden = hidden[stays.to(hidden.device)]
    for layer in layers:
        hidden = stack.layer(layer, hidden, run)
    stack.end(state, run)
    return hidden
