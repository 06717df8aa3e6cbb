"""Tokens that left early and wait to be run through the layers that they skipped.

Owns what a state must remember of them. It does not know why they left, nor when they go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dynamax_lm.core.stack import Chunk


class Sleepers(NamedTuple):
    """The last tokens of a row, oldest first.

    Attributes:
        depths: layers run for each.
        hidden: (W, D) their hidden states there.
    """

    depths: list[int]
    hidden: Tensor


@dataclass
class Waiting:
    """Who waits in each row of a state.

    Attributes:
        rows: by row of the state; rows in which nobody waits are left out.
    """

    rows: dict[int, Sleepers] = field(default_factory=dict)

    def count(self, row: int) -> int:
        """How many tokens of ``row`` wait."""
        return len(self.depths(row))

    def depths(self, row: int) -> list[int]:
        """Layers run for each token of ``row`` that waits."""
        return self.rows[row].depths if row in self.rows else []

    def missing(self, row: int, layer: int) -> int:
        """How many tokens of ``row`` have not been through ``layer``, from 0, yet."""
        return sum(depth <= layer for depth in self.depths(row))

    def copy(self) -> Waiting:
        """The same, independent; what is stored is never changed in place."""
        return Waiting(dict(self.rows))

    def take(self, rows: Sequence[int]) -> Waiting:
        """Those of ``rows``, which may repeat, under new numbers."""
        return Waiting({new: self.rows[old] for new, old in enumerate(rows) if old in self.rows})

    def widen(self, chunk: Chunk) -> Chunk:
        """``chunk`` with those that wait in front of each row's new tokens."""
        known = tuple(self.count(row) for row in chunk.rows)
        if not any(known):
            return chunk
        lengths = tuple(a + b for a, b in zip(known, chunk.lengths, strict=True))
        wide = chunk.ids.new_zeros(len(known), max(lengths))
        for place, (before, length) in enumerate(zip(known, chunk.lengths, strict=True)):
            wide[place, before : before + length] = chunk.ids[place, :length]
        return replace(chunk, ids=wide, lengths=lengths, known=known)

    def keep(self, row: int, depths: Sequence[int], hidden: Tensor) -> None:
        """From now on the last tokens of ``row`` wait like this, and no others."""
        if depths:
            self.rows[row] = Sleepers(list(depths), hidden)
        else:
            self.rows.pop(row, None)

    def hidden(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """(W, D) of all that wait in ``rows``, one row after the other."""
        return torch.cat([self.rows[row].hidden.to(device) for row in rows if row in self.rows])
