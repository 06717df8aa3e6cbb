"""Decoders as tests run and observe them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.attention_state import KeyValues
from dynamax_lm.decoders.feed_forward import NoState
from dynamax_lm.decoders.parallel import BothStates
from tests.builders import (
    VOCAB,
)


def remembered(state: Any) -> list[torch.Tensor]:
    """All that a state remembers, without slots that were never used."""
    used, kept = max(state.rows.columns), []
    for layer in state.layers:
        both = isinstance(layer, BothStates)
        for part in (layer.attention, layer.recurrent) if both else (layer,):
            if isinstance(part, KeyValues):
                kept += [part.keys[:, :, :used], part.values[:, :, :used]]
            elif not isinstance(part, NoState):
                kept += [part.conv, part.ssm]
    return kept


def step(stack: Any, state: Any, rows: int) -> torch.Tensor:
    """(rows, V) logits after one more token of every row."""
    token_batch = TokenBatch.of([[1]] * rows, range(rows), stack.device)
    run = stack.begin(state, token_batch, "propagate")
    hidden = stack.embed(run)
    for layer in range(stack.n_layers):
        hidden = stack.layer(layer, hidden, run)
    stack.end(state, run)
    logits: torch.Tensor = stack.unembed(hidden)
    return logits


class Counting:
    """A stack that counts the prompt slots and all slots that enter its layers."""

    def __init__(self, stack: Any) -> None:
        self._stack = stack
        self.prompt_slots = self.slots = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def layer(self, index: int, hidden: torch.Tensor, run: Any) -> torch.Tensor:
        self.slots += hidden.shape[0]
        self.prompt_slots += hidden.shape[0] * run.token_batch.prefill
        out: torch.Tensor = self._stack.layer(index, hidden, run)
        return out


class Keep:
    """Keeps every token's logits."""

    def __init__(self, tokens: int) -> None:
        self.logits = torch.full((tokens, VOCAB), torch.nan)

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def emit(self, index: Tensor, logits: Tensor) -> None:
        self.logits[index] = logits.float()
