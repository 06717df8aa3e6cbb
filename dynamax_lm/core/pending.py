"""Pending tokens: those that exited early under ``recompute`` and have layers still to run.

A state records them by row: the layers that each has run, and its hidden state there.
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
        hidden: (W, D) their hidden states there.
    """

    depths: list[int]
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

    def keep(self, row: int, depths: Sequence[int], hidden: Tensor) -> None:
        """Replace the pending tokens of ``row``: layers run for each, and (W, D) hidden states."""
        if depths:
            self.rows[row] = PendingRow(list(depths), hidden)
        else:
            self.rows.pop(row, None)

    def hidden(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """(W, D) hidden states of the pending tokens of ``rows``, row after row."""
        return torch.cat([self.rows[row].hidden.to(device) for row in rows if row in self.rows])
