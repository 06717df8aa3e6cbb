"""The interface between the loop and the decoders: a batch of tokens, a pass, and the protocol.

Glossary: B rows of a batch, T tokens of its longest row, D width, V vocabulary, L layers. A *slot*
(token slot) is one place of the (B, T) rectangle, counted row by row. Hidden states are kept flat,
one row per running slot, so that an exited token takes no further part in any product; its slot is
*frozen*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamax_lm.core.pending import PendingTokens


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """New tokens for some rows of a state.

    >>> import torch
    >>> batch = TokenBatch.of([[5, 6, 7], [8]], [0, 1], torch.device("cpu"))
    >>> batch.width, batch.lengths, batch.rows
    (3, (3, 1), (0, 1))

    Attributes:
        ids: (B, T) token ids; slots outside ``lengths`` hold any valid id.
        lengths: real tokens of each row, 1..T; 0 only in a prefill, and in rows without new tokens.
        rows: the state's row of each row of the token batch.
        prefill: padding is on the left and the state is empty; otherwise padding is on the right.
        known: how many of each row's first tokens are pending in the state and part of its length;
            empty for none.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    prefill: bool = False
    known: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        tokens: Sequence[Sequence[int]],
        rows: Sequence[int],
        device: torch.device,
        *,
        prefill: bool = False,
    ) -> TokenBatch:
        """Pad ``tokens`` to a rectangle: on the left for a prefill, else on the right."""
        lengths = tuple(len(row) for row in tokens)
        width = max(lengths)
        padded = [
            [0] * (width - len(row)) + list(row)
            if prefill
            else list(row) + [0] * (width - len(row))
            for row in tokens
        ]
        ids = torch.tensor(padded, dtype=torch.long, device=device)
        return cls(ids, lengths, tuple(rows), prefill)

    def repeat(self, times: int) -> TokenBatch:
        """The same tokens for ``times`` copies of a state whose rows are the token batch's."""
        rows = tuple(range(len(self.rows) * times))
        return replace(self, ids=self.ids.repeat(times, 1), lengths=self.lengths * times, rows=rows)

    @classmethod
    def of_pending(
        cls, tokens: Sequence[Sequence[int]], rows: Sequence[int], device: torch.device
    ) -> TokenBatch:
        """Pending ``tokens`` of ``rows``, one each at least, and no new ones."""
        token_batch = cls.of(tokens, rows, device)
        return replace(token_batch, known=token_batch.lengths)

    def prepend(self, pending: Sequence[Sequence[int]]) -> TokenBatch:
        """Add the ids of the ``pending`` tokens of each row before its new tokens."""
        known = tuple(map(len, pending))
        if not any(known):
            return self
        lengths = tuple(old + new for old, new in zip(known, self.lengths, strict=True))
        width = max(known)
        before = [[*row, *[0] * (width - len(row))] for row in pending]
        ids = self.ids.new_zeros(len(lengths), max(lengths))
        ids[:, :width] = torch.tensor(before, dtype=ids.dtype, device=ids.device)
        for place, (old, new) in enumerate(zip(known, self.lengths, strict=True)):
            ids[place, old : old + new] = self.ids[place, :new]
        return replace(self, ids=ids, lengths=lengths, known=known)

    @property
    def already_known(self) -> tuple[int, ...]:
        """Of each row, how many of its first tokens are pending; 0 for none."""
        return self.known or (0,) * len(self.rows)

    @property
    def width(self) -> int:
        """T, the longest row."""
        return self.ids.shape[1]

    @property
    def even(self) -> bool:
        """Whether every row has T tokens."""
        return min(self.lengths) == self.width

    def real(self, slots: Tensor) -> Tensor:
        """(N,) bool: which of ``slots`` (N,) are tokens, not the padding of a prefill."""
        if self.even or not self.prefill:
            return torch.ones_like(slots, dtype=torch.bool)
        lengths = torch.tensor(self.lengths, device=slots.device)
        return slots % self.width >= self.width - lengths[slots // self.width]

    def slots(self) -> Tensor:
        """(N,) the slots to run: the real tokens; in a prefill the padding too.

        A prefill runs its padding so that it computes exactly what transformers' forward does.
        """
        batch, width = self.ids.shape
        every = torch.arange(batch * width, device=self.ids.device)
        if self.even or self.prefill:
            return every
        lengths = torch.tensor(self.lengths, device=self.ids.device)
        return every[every % width < lengths[every // width]]


class ForwardPass:
    """One pass of a token batch through the layers: running and frozen slots.

    >>> import torch
    >>> run = ForwardPass(TokenBatch.of([[5], [6]], [0, 1], torch.device("cpu")))
    >>> run.freeze(torch.tensor([True, False]), hidden=torch.zeros(2, 4))  # the first token exits
    >>> run.slots.tolist(), run.frozen.tolist()
    ([1], [0])

    Attributes:
        token_batch: the tokens.
        slots: (N,) the running slots, ascending.
        frozen: (M,) the frozen slots, in the order of their exits.
        frozen_hidden: (M, D) their hidden states at the exit; ``None`` before the first exit.
        any_stopped: whether any slot has stopped running, frozen or deferred.
    """

    def __init__(self, token_batch: TokenBatch) -> None:
        self.token_batch = token_batch
        self.slots = token_batch.slots()
        self.frozen: Tensor = self.slots[:0]
        self.frozen_hidden: Tensor | None = None
        self.any_stopped = False

    @property
    def whole(self) -> bool:
        """Whether the running slots are the full rectangle, row by row."""
        return not self.any_stopped and self.slots.shape[0] == self.token_batch.ids.numel()

    def freeze(self, exiting: Tensor, hidden: Tensor) -> None:
        """Stop running the slots where ``exiting`` (N,) holds; ``hidden`` (N, D) is frozen."""
        frozen = hidden[exiting.to(hidden.device)]
        if self.frozen_hidden is not None:
            frozen = torch.cat([self.frozen_hidden.to(frozen.device), frozen])
        self.frozen_hidden = frozen
        exiting = exiting.to(self.slots.device)
        self.frozen = torch.cat([self.frozen, self.slots[exiting]])
        self.slots = self.slots[~exiting]
        self.any_stopped = True
        self.changed()

    def keep(self, staying: Tensor) -> None:
        """Run only the slots where ``staying`` (N,) holds; no slot is frozen."""
        self.set_slots(self.slots[staying.to(self.slots.device)])

    def set_slots(self, slots: Tensor) -> None:
        """Run ``slots``, ascending, from the next layer."""
        self.slots = slots
        self.any_stopped = True
        self.changed()

    def changed(self) -> None:
        """Called whenever ``slots`` change; adapters discard tensors derived from them."""


class DecoderState(Protocol):
    """The part of a decoder's state that the core reads; the rest is private to the decoder.

    Attributes:
        pending: pending tokens of every row, whose last layers have not run.
    """

    pending: PendingTokens


class LayerStack(Protocol):
    """A decoder that is run layer by layer, over a state that it made itself."""

    @property
    def n_layers(self) -> int:
        """L, at least 1."""
        ...

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of token ids."""
        ...

    def begin(self, state: Any, token_batch: TokenBatch, skipped_state: str) -> ForwardPass:
        """Start a pass; ``skipped_state`` names the policy for the layers that a slot skips."""
        ...

    def embed(self, run: ForwardPass) -> Tensor:
        """(N, D) the residual stream at the input of the first layer."""
        ...

    def layer(self, index: int, hidden: Tensor, run: ForwardPass) -> Tensor:
        """Run layer ``index`` on the running slots, and update its state for the frozen ones.

        Args:
            index: 0..L-1.
            hidden: (N, D) of the running slots; N may be 0.
            run: the pass.

        Returns:
            (N, D).
        """
        ...

    def end(self, state: Any, run: ForwardPass) -> None:
        """Close a pass: the state now includes the token batch."""
        ...

    def unembed(self, hidden: Tensor) -> Tensor:
        """(N, V) logits of ``hidden`` (N, D): final norm and vocabulary projection."""
        ...

    def normed(self, hidden: Tensor) -> Tensor:
        """(N, D) the input of the vocabulary projection: ``hidden`` (N, D) after the final norm."""
        ...

    def project_low_rank(self, normed: Tensor, rank: int) -> Tensor:
        """(N, V) logits of ``normed`` (N, D) by factors of the unembedding.

        Args:
            normed: of :meth:`normed`.
            rank: of the factors, 1..D; with D they are the unembedding, up to rounding.
        """
        ...

    def project_tokens(self, normed: Tensor, tokens: Tensor) -> Tensor:
        """(N, M) logits of ``normed`` (N, D) for ``tokens`` (N, M) alone."""
        ...
