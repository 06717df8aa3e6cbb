"""The protocol of trained heads, and their state over one batch.

The state spans the answering of one batch, from the first step that may exit, even as rows finish.
Prefill, the reference and the oracle's full-depth passes check no exits and do not change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamax_lm.core.stack import TokenBatch


class TrainedHeads(Protocol):
    """Classifiers and translators; an exit is named by its layer, 1..L-1."""

    @property
    def along_tokens(self) -> bool:
        """Whether a confidence depends on the row's earlier tokens that reached the exit."""
        ...

    def new_state(self, rows: int) -> Any:
        """An empty state for a batch of ``rows`` rows."""
        ...

    def begin(self, state: Any, tokens: int, index: Tensor | None = None) -> None:
        """A pass of ``tokens`` tokens begins; or new tokens begin at ``index`` (n,) of it."""
        ...

    def forget(self, state: Any, rows: Sequence[int]) -> None:
        """``rows`` of the batch have other requests from now on."""
        ...

    def take(self, state: Any, rows: Tensor) -> Any:
        """A copy of the state of ``rows`` (n,), as far as it depends on earlier tokens."""
        ...

    def put(self, state: Any, rows: Tensor, taken: Any, places: Tensor) -> None:
        """Restore ``rows`` (n,) from entries ``places`` (n,) of what :meth:`take` returned."""
        ...

    def confidence(
        self, layer: int, hidden: Tensor, *, rows: Tensor, tokens: Tensor, state: Any
    ) -> Tensor:
        """(n,) in [0, 1]: probability that exiting is right; ``state`` then includes these tokens.

        Args:
            layer: the exit.
            hidden: (n, D) of the tokens checked.
            rows: (n,) the batch's row of each; a row's tokens are adjacent and in order.
            tokens: (n,) which of the pass's tokens these are.
            state: of the batch.
        """
        ...

    def translate(self, layer: int, hidden: Tensor) -> Tensor:
        """(n, D) the input of the unembedding in place of ``hidden`` (n, D)."""
        ...


class HeadSession:
    """Heads, their state for one batch, and the row of each token of a pass.

    Args:
        heads: the heads.
        rows: rows of the batch.
    """

    def __init__(self, heads: TrainedHeads, rows: int) -> None:
        self._heads, self._count = heads, rows
        self._state = heads.new_state(rows)
        self._rows: Tensor | None = None
        self._by_row = False

    @classmethod
    def of(cls, heads: TrainedHeads | None, rows: int) -> HeadSession | None:
        """A session at the beginning of a batch; ``None`` without heads."""
        return None if heads is None else cls(heads, rows)

    def begin(self, token_batch: TokenBatch, slots: Tensor) -> None:
        """A pass over ``slots`` (N,) of ``token_batch`` begins, whose rows are the batch's."""
        rows = torch.tensor(token_batch.rows, device=slots.device)
        self._rows, self._by_row = rows[slots // token_batch.width], False
        self._heads.begin(self._state, slots.shape[0])

    def begin_tokens(self, rows: Tensor) -> None:
        """A new token of each of ``rows`` (n,) begins; a token's index is its row."""
        if not self._by_row:
            self._rows, self._by_row = torch.arange(self._count, device=rows.device), True
            self._heads.begin(self._state, self._count)
        self._heads.begin(self._state, self._count, rows)

    @property
    def along_tokens(self) -> bool:
        """Whether the state depends on earlier tokens of a row."""
        return self._heads.along_tokens

    def take(self, rows: Sequence[int]) -> Any:
        """A copy of the state of ``rows``."""
        return self._heads.take(self._state, torch.tensor(list(rows)))

    def put(self, row: int, taken: Any, place: int) -> None:
        """Restore ``row`` from entry ``place`` of what :meth:`take` returned."""
        self._heads.put(self._state, torch.tensor([row]), taken, torch.tensor([place]))

    def forget(self, rows: Sequence[int]) -> None:
        """``rows`` have other requests from now on."""
        self._heads.forget(self._state, rows)

    def confidence(self, layer: int, hidden: Tensor, index: Tensor) -> Tensor:
        """(n,) confidences at an exit for tokens ``index`` (n,) of the pass; advances the state."""
        assert self._rows is not None, "begin() comes before the first check of a pass"
        return self._heads.confidence(
            layer, hidden, rows=self._rows[index], tokens=index, state=self._state
        )

    def translate(self, layer: int, hidden: Tensor) -> Tensor:
        """(n, D) the input of the unembedding in place of ``hidden`` (n, D)."""
        return self._heads.translate(layer, hidden)
