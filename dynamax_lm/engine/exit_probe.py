"""Evaluate every exit on every token in one full-depth pass.

``probe_exits`` runs the pass, in which no token exits, and calls observers at each exit; those here
store confidences, most likely tokens or hidden states. Stored hidden states can be given to the
same observers, one ``View`` at a time.

Glossary: N tokens of the pass, n tokens of a slice, E exits, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamax_lm.core.confidence import Confidence, make_confidence
from dynamax_lm.core.exit_view import ExitView, View, slices
from dynamax_lm.core.stack import LayerStack, TokenBatch
from dynamax_lm.engine.head_session import HeadSession, TrainedHeads

Unembed = Callable[[Tensor], Tensor]
"""(n, D) to (n, V) logits: final norm and vocabulary projection."""


class ExitObserver(Protocol):
    """Called at every exit of the pass, for a slice of the tokens at a time, in order.

    >>> class Depths:  # how many tokens each exit sees
    ...     def __init__(self):
    ...         self.seen = {}
    ...     def on_exit(self, view):
    ...         self.seen[view.exit] = self.seen.get(view.exit, 0) + len(view.index)
    ...     def on_full_depth(self, index, hidden, logits):
    ...         pass
    >>> import dynamax_lm
    >>> stack, depths = dynamax_lm.load("tiny").lm.stack, Depths()
    >>> batch = dynamax_lm.TokenBatch.of([[1, 5, 9]], [0], stack.device)
    >>> with torch.inference_mode():
    ...     dynamax_lm.probe_exits(stack, stack.new_state(1), batch, [4, 8], [depths])
    >>> depths.seen
    {0: 3, 1: 3}
    """

    def on_exit(self, view: View) -> None:
        """Some tokens reach an exit; reading ``view.logits`` computes a vocabulary projection."""
        ...

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        """The same tokens have run all layers.

        Args:
            index: (n,) which of the pass's N tokens these are.
            hidden: (n, D) after the last layer.
            logits: returns their (n, V) logits, computed at the first call.
        """
        ...


def probe_exits(
    stack: LayerStack,
    state: Any,
    token_batch: TokenBatch,
    exit_layers: Sequence[int],
    observers: Sequence[ExitObserver],
    *,
    heads: TrainedHeads | None = None,
) -> None:
    """Run ``token_batch`` at full depth and call ``observers`` at every exit of every token.

    >>> import dynamax_lm
    >>> stack = dynamax_lm.load("tiny").lm.stack
    >>> predicted = TokenGrid(tokens=3, exits=2)
    >>> batch = dynamax_lm.TokenBatch.of([[1, 5, 9]], [0], stack.device)
    >>> with torch.inference_mode():
    ...     dynamax_lm.probe_exits(stack, stack.new_state(1), batch, [4, 8], [predicted])
    >>> predicted.tokens.shape  # of every token: both exits, and full depth
    torch.Size([3, 3])

    Args:
        stack: the decoder.
        state: its state, in which no token is pending; afterwards it includes the token batch.
        token_batch: the tokens.
        exit_layers: layers run before each exit, ascending, each in 1..L-1.
        observers: called in order at each exit.
        heads: trained classifiers and translators of the exits, if any.
    """
    run = stack.begin(state, token_batch, "propagate")
    session = HeadSession.of(heads, len(token_batch.rows))
    if session is not None:
        session.begin(token_batch, run.slots)
    every = torch.arange(run.slots.shape[0], device=run.slots.device)
    exits = {layers: number for number, layers in enumerate(exit_layers)}
    hidden = stack.embed(run)
    for layer in range(stack.n_layers):
        hidden = stack.layer(layer, hidden, run)
        if layer + 1 not in exits:
            continue
        for part in slices(stack, every.shape[0]):
            view = View(
                *(stack.unembed, exits[layer + 1], layer + 1, every[part], hidden[part], session),
                stack=stack,
            )
            for observer in observers:
                observer.on_exit(view)
    for part in slices(stack, every.shape[0]):
        logits = _Once(stack.unembed, hidden[part])
        for observer in observers:
            observer.on_full_depth(every[part], hidden[part], logits)
    stack.end(state, run)


class _Once:
    """A projection computed at the first call."""

    def __init__(self, unembed: Unembed, hidden: Tensor) -> None:
        self._unembed, self._hidden = unembed, hidden
        self._logits: Tensor | None = None

    def __call__(self) -> Tensor:
        if self._logits is None:
            self._logits = self._unembed(self._hidden)
        return self._logits


class ConfidenceGrid:
    """The confidence of every exit in every token, by one measure.

    Args:
        confidence: name of the measure; not the oracle, whose target is known only after the pass.
        tokens: N.
        exits: E.

    Attributes:
        confidence: (N, E) float32 in [0, 1].
    """

    def __init__(self, confidence: str, tokens: int, exits: int) -> None:
        self._measure: Confidence = make_confidence(confidence, tokens=tokens, exits=exits)
        self.confidence = torch.zeros(tokens, exits)

    def on_exit(self, view: View) -> None:
        confidence = self._measure.ask(view)
        self.confidence[view.index.cpu(), view.exit] = confidence.float().cpu()

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        """Full depth has no confidence."""


class TokenGrid:
    """The most likely token of every exit and of full depth, after each token.

    Args:
        tokens: N.
        exits: E.

    Attributes:
        tokens: (N, E + 1) token ids, full depth's last.
    """

    def __init__(self, tokens: int, exits: int) -> None:
        self.tokens = torch.zeros(tokens, exits + 1, dtype=torch.long)

    def on_exit(self, view: ExitView) -> None:
        self.tokens[view.index.cpu(), view.exit] = view.logits.argmax(-1).cpu()

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        del hidden
        self.tokens[index.cpu(), -1] = logits().argmax(-1).cpu()


class HiddenStates:
    """The hidden states of some tokens at every exit, and after the last layer.

    Args:
        kept: (M,) which of the pass's N tokens to keep, ascending.
        tokens: N.
        exits: E.

    Attributes:
        hidden: (M, D) at each exit, then after the last layer.
    """

    def __init__(self, kept: Tensor, tokens: int, exits: int) -> None:
        self._kept, self._exits = kept, exits
        self._place = torch.full((tokens,), -1, dtype=torch.long, device=kept.device)
        self._place[kept] = torch.arange(kept.shape[0], device=kept.device)
        self.hidden: list[Tensor] = []

    def on_exit(self, view: ExitView) -> None:
        self._keep(view.exit, view.index, view.hidden)

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        del logits
        self._keep(self._exits, index, hidden)

    def _keep(self, exit: int, index: Tensor, hidden: Tensor) -> None:
        if len(self.hidden) == exit:
            self.hidden.append(hidden.new_zeros(self._kept.shape[0], hidden.shape[1]))
        place = self._place[index.to(self._place.device)]
        kept = place >= 0
        self.hidden[exit][place[kept].to(hidden.device)] = hidden[kept.to(hidden.device)]
