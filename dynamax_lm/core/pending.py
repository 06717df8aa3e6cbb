"""Pending tokens: those whose last layers have not run, or have not been given their state.

They have exited early, or are in flight. A state records them by row: the layers that each has run,
its id, and its hidden state; under ``recompute`` the one after these layers, else the one at its
exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class PendingRow(NamedTuple):
    """The pending tokens of one row, its last ones, oldest first.

    Attributes:
        depths: layers run for each.
        ids: of the tokens, which layers that read embeddings look up again.
        hidden: (W, D) their hidden states there.
    """

    depths: list[int]
    ids: list[int]
    hidden: Tensor


@dataclass
class PendingTokens:
    """The pending tokens of every row of a state.

    Attributes:
        rows: by row of the state; a row without pending tokens has no entry.
    """

    rows: dict[int, PendingRow] = field(default_factory=dict)

    def count(self, row: int) -> int:
        """How many tokens of ``row`` are pending."""
        return len(self.depths(row))

    def depths(self, row: int) -> list[int]:
        """Layers run for each pending token of ``row``."""
        return self.rows[row].depths if row in self.rows else []

    def ids(self, row: int) -> list[int]:
        """Ids of the pending tokens of ``row``."""
        return self.rows[row].ids if row in self.rows else []

    def missing(self, row: int, layer: int) -> int:
        """How many tokens of ``row`` have not been through ``layer``, from 0, yet."""
        return sum(depth <= layer for depth in self.depths(row))

    def copy(self) -> PendingTokens:
        """An independent copy; the stored tensors are never changed in place."""
        return PendingTokens(dict(self.rows))

    def take(self, rows: Sequence[int]) -> PendingTokens:
        """Those of ``rows``, which may repeat, under new numbers."""
        return PendingTokens(
            {new: self.rows[old] for new, old in enumerate(rows) if old in self.rows}
        )

    def keep(self, row: int, depths: Sequence[int], ids: Sequence[int], hidden: Tensor) -> None:
        """Replace the pending tokens of ``row``: layers run, ids, and (W, D) hidden states."""
        if depths:
            self.rows[row] = PendingRow(list(depths), list(ids), hidden)
        else:
            self.rows.pop(row, None)

    def append(self, row: int, depth: int, token: int, hidden: Tensor) -> None:
        """Add the id of a token of ``row`` that has run ``depth`` layers; ``hidden`` is (1, D)."""
        if row in self.rows:
            depths, ids, before = self.rows[row]
            joined = torch.cat([before.to(hidden.device), hidden])
            self.rows[row] = PendingRow([*depths, depth], [*ids, token], joined)
        else:
            self.rows[row] = PendingRow([depth], [token], hidden)

    def stopped_at(self, row: int, depth: int) -> int:
        """How many tokens of ``row`` have run exactly ``depth`` layers: its last ones."""
        return self.depths(row).count(depth)

    def last(self, row: int, count: int) -> Tensor:
        """(count, D) hidden states of the last ``count`` pending tokens of ``row``."""
        return self.rows[row].hidden[-count:]

    def advance(self, row: int, count: int, depth: int, new: Tensor, *, done: bool) -> None:
        """The last ``count`` tokens of ``row`` have run, or been given the state of, more layers.

        Args:
            row: of the state.
            count: at least 1.
            depth: layers run for each now.
            new: (m, D) hidden states of the last m of them; the others keep theirs.
            done: whether no layer is left, so that they are no longer pending.
        """
        depths, ids, hidden = self.rows[row]
        if done:
            self.keep(row, depths[:-count], ids[:-count], hidden[:-count])
            return
        kept = hidden[: hidden.shape[0] - new.shape[0]]
        joined = torch.cat([kept.to(new.device), new]) if kept.shape[0] else new
        self.rows[row] = PendingRow([*depths[:-count], *[depth] * count], ids, joined)

    def hidden(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """(W, D) hidden states of the pending tokens of ``rows``, row after row."""
        return torch.cat([self.rows[row].hidden.to(device) for row in rows if row in self.rows])
