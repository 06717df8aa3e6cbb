"""Padding and length of each row of a decoder's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynamax_lm.core.stack import TokenBatch


@dataclass
class RowLengths:
    """The rows of a state.

    Attributes:
        pads: padding to the left of each row.
        columns: length of each row, padding included.
    """

    pads: list[int]
    columns: list[int]

    @classmethod
    def empty(cls, batch: int) -> RowLengths:
        """``batch`` rows without tokens."""
        return cls([0] * batch, [0] * batch)

    def begin(self, token_batch: TokenBatch) -> None:
        """Reset the rows of a prefill, with padding on the left."""
        if token_batch.prefill:
            for row, length in zip(token_batch.rows, token_batch.lengths, strict=True):
                self.pads[row], self.columns[row] = token_batch.width - length, 0

    def end(self, token_batch: TokenBatch) -> None:
        """Count the new tokens of ``token_batch``; its pending ones were counted before."""
        for row, length, old in zip(
            token_batch.rows, token_batch.lengths, token_batch.already_known, strict=True
        ):
            self.columns[row] += token_batch.width if token_batch.prefill else length - old

    def starts(self, token_batch: TokenBatch) -> list[int]:
        """The column of the first token, or padding, of each row of ``token_batch``."""
        pairs = zip(token_batch.rows, token_batch.already_known, strict=True)
        return [self.columns[row] - old for row, old in pairs]

    def covers(self, token_batch: TokenBatch) -> bool:
        """Whether ``token_batch`` has every row, in order."""
        return token_batch.rows == tuple(range(len(self.columns)))

    def tokens(self, row: int) -> int:
        """Tokens of ``row``, without padding."""
        return self.columns[row] - self.pads[row]

    def take(self, rows: Sequence[int]) -> RowLengths:
        """An independent copy of ``rows``, which may repeat."""
        return RowLengths([self.pads[row] for row in rows], [self.columns[row] for row in rows])

    def put(self, rows: Sequence[int], source: RowLengths, taken: Sequence[int]) -> None:
        """Set ``rows`` to the lengths of rows ``taken`` of ``source``, without padding."""
        for row, old in zip(rows, taken, strict=True):
            self.pads[row], self.columns[row] = 0, source.tokens(old)

    def copy(self) -> RowLengths:
        """An independent copy."""
        return RowLengths(list(self.pads), list(self.columns))
