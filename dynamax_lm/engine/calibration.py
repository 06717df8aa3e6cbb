"""The second moment of the vocabulary projection's inputs at the exits of a text.

The factors of a cheap look (``core.looks``) are made for inputs of this moment: hidden states are
far from independent, so that factors of the weights alone see little of their logits.

Glossary: N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynamax_lm.core.exit_view import View
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.exit_probe import probe_exits
from dynamax_lm.engine.head_session import TrainedHeads
from dynamax_lm.engine.stateful_stack import StatefulStack


class SecondMoment:
    """Sums over tokens and exits of y y^T, y the input of the projection.

    Attributes:
        total: (D, D) float64; ``None`` before the first token.
        count: how many inputs are in it.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def on_exit(self, view: View) -> None:
        """Add the tokens of one exit."""
        inputs = view.normed.double()
        moment = inputs.T @ inputs
        self.total = moment if self.total is None else self.total + moment
        self.count += inputs.shape[0]

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        """Full depth is not looked at cheaply."""


def second_moment(
    stack: StatefulStack,
    rows: Sequence[Sequence[int]],
    exit_layers: Sequence[int],
    heads: TrainedHeads | None = None,
) -> Tensor:
    """(D, D) float64, the mean over all tokens of ``rows`` at all exits.

    Args:
        stack: the decoder.
        rows: token ids, at least one token.
        exit_layers: layers run before each exit, ascending, at least one.
        heads: whose translators come before the final norm, if any.
    """
    found = SecondMoment()
    with torch.inference_mode():
        for row in rows:
            token_batch = TokenBatch.of([row], [0], stack.device)
            probe_exits(stack, stack.new_state(1), token_batch, exit_layers, [found], heads=heads)
    assert found.total is not None, "there is a token"
    return found.total / found.count
