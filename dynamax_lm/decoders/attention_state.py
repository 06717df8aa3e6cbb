"""The key-value cache of one layer.

All prompts of a batch end at the same column of the cache (padding on the left), and
position = column - padding.

Glossary: B rows, G key/value heads, P head width, S columns, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dynamax_lm.decoders.rows import RowLengths

_BLOCK = 64
"""Columns are allocated in steps of this many."""


@dataclass
class KeyValues:
    """Keys and values of one layer.

    Attributes:
        keys: (B, G, S, P).
        values: (B, G, S, P).
    """

    keys: Tensor
    values: Tensor

    def seen(self, given: list[int]) -> list[int]:
        """All tokens given: the cache has no gaps."""
        return given

    def tensors(self) -> tuple[Tensor, ...]:
        """Keys and values."""
        return self.keys, self.values

    def mark(self) -> None:
        """Empty: columns beyond a row's length are masked until they are written again."""

    def rewind(self, mark: None) -> None:
        """Nothing to do; see ``mark``."""

    def take(self, rows: Tensor) -> KeyValues:
        """An independent state of ``rows`` (B',), which may repeat."""
        return KeyValues(
            self.keys[rows.to(self.keys.device)], self.values[rows.to(self.values.device)]
        )

    def put(
        self, rows: Sequence[int], source: KeyValues, taken: Sequence[int], lengths: RowLengths
    ) -> None:
        """Copy rows ``taken`` of ``source`` to the first columns of ``rows``."""
        self.reserve(max(lengths.tokens(old) for old in taken))
        for row, old in zip(rows, taken, strict=True):
            start, end = lengths.pads[old], lengths.columns[old]
            self.keys[row, :, : end - start] = source.keys[old, :, start:end]
            self.values[row, :, : end - start] = source.values[old, :, start:end]

    def begin_draft(self, rows: Sequence[int]) -> None:
        """Nothing to do; see ``mark``."""

    def reserve(self, columns: int) -> None:
        """Make room for ``columns`` tokens a row."""
        if columns > self.keys.shape[2]:
            rounded = -(-columns // _BLOCK) * _BLOCK
            self.keys, self.values = _grown(self.keys, rounded), _grown(self.values, rounded)

    def write(self, rows: Tensor, columns: Tensor, key: Tensor, value: Tensor) -> None:
        """Store (N, G, P) keys and values at ``columns`` (N,) of ``rows`` (N,)."""
        rows, columns = rows.to(self.keys.device), columns.to(self.keys.device)
        self.keys[rows, :, columns] = key.to(self.keys.dtype)
        self.values[rows, :, columns] = value.to(self.values.dtype)

    def write_block(self, columns: slice, key: Tensor, value: Tensor) -> None:
        """Store (B, T, G, P) keys and values at the same ``columns`` of every row."""
        self.keys[:, :, columns] = key.transpose(1, 2)
        self.values[:, :, columns] = value.transpose(1, 2)

    def copy_from(self, other: KeyValues, rows: Tensor, columns: Tensor) -> None:
        """Copy keys and values of ``other`` at ``columns`` (N,) of ``rows`` (N,)."""
        for to, source in ((self.keys, other.keys), (self.values, other.values)):
            copied = source[rows.to(source.device), :, columns.to(source.device)]
            to[rows.to(to.device), :, columns.to(to.device)] = copied.to(to.device)


def _grown(old: Tensor, columns: int) -> Tensor:
    # Zeros, not empty: a masked column is multiplied by zero, and 0 * NaN is NaN.
    grown = old.new_zeros(*old.shape[:2], columns, old.shape[3])
    grown[:, :, : old.shape[2]] = old
    return grown
