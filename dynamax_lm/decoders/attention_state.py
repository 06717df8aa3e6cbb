"""What attention remembers, and where the tokens of a pass stand in it.

Owns slots, positions, masks and the layout of queries. Rows are laid out by slots: a row's prompt
ends at the same slot as its neighbours' (pads on the left), and position = slot - pad. It does not
know how keys and values are made.

Glossary: H query heads, G key/value heads, P head width, S slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamax_lm.core.pending import Waiting
from dynamax_lm.core.stack import Chunk, Run


@dataclass
class AttentionState:
    """Keys and values of every layer.

    Attributes:
        pads: pads to the left of each row.
        lengths: slots used by each row, pads included.
        keys: per layer (B, G, S, P).
        values: per layer (B, G, S, P).
        waiting: tokens that have a slot, but no key and value in every layer yet.
    """

    pads: list[int]
    lengths: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    waiting: Waiting = field(default_factory=Waiting)

    def seen(self, layer: int) -> list[int]:
        """Tokens that ``layer`` has seen, per row: all but those that wait below it."""
        pairs = enumerate(zip(self.lengths, self.pads, strict=True))
        return [length - pad - self.waiting.missing(row, layer) for row, (length, pad) in pairs]


@dataclass(frozen=True, slots=True)
class _Queries:
    """How the running cells lie in the attention product.

    Attributes:
        rows: the state's rows that have a query, or ``None`` for all of them, in order.
        place: (N,) place of each cell in the (B', Tq) rectangle, or ``None`` if it fills it.
        shape: (B', Tq).
        mask: (B', 1, Tq, S) or ``None``.
    """

    rows: Tensor | None
    place: Tensor | None
    shape: tuple[int, int]
    mask: Tensor | None


class AttentionRun(Run):
    """A pass with slots, rotary angles and the layout of the queries.

    Attributes:
        slots: (B * T,) the slot of every cell.
        state_rows: (B * T,) the state's row of every cell.
        cos: (B * T, P) rotary cosines; ``sin`` likewise.
        used: slots that any row uses once the chunk is in.
        block: whether the chunk's cells are the same slots of every row of the state.
    """

    def __init__(self, chunk: Chunk, state: AttentionState, skipped_state: str) -> None:
        super().__init__(chunk)
        device = chunk.ids.device
        width = chunk.width
        self.state = state
        self.skipped_state = skipped_state
        if chunk.prefill:
            pads = [width - length for length in chunk.lengths]
            for row, pad in zip(chunk.rows, pads, strict=True):
                state.pads[row], state.lengths[row] = pad, 0
        known = chunk.known or (0,) * len(chunk.rows)
        starts = [state.lengths[row] - old for row, old in zip(chunk.rows, known, strict=True)]
        self.starts = torch.tensor(starts, device=device)
        self.pads = torch.tensor([state.pads[row] for row in chunk.rows], device=device)
        columns = torch.arange(width, device=device)
        self.slots = (self.starts[:, None] + columns).flatten()
        self.state_rows = torch.tensor(chunk.rows, device=device).repeat_interleave(width)
        self.used = max(starts) + width
        self.no_pads = not any(state.pads[row] for row in chunk.rows)
        self.level = min(starts) == max(starts) and chunk.even
        self.all_rows = chunk.rows == tuple(range(len(state.lengths)))
        self.cos: Tensor
        self.sin: Tensor
        self.block = self.level and self.all_rows
        self._single: bool | None = None
        self.changed()

    @property
    def one_token(self) -> bool:
        """Whether each row that runs has one cell that does, as in a decoding step."""
        if self._single is None:
            single = not self.chunk.prefill
            if single and self.chunk.width > 1:
                rows = self.cells // self.chunk.width
                single = not bool((rows[1:] == rows[:-1]).any())
            self._single = single
        return self._single

    def positions(self) -> Tensor:
        """(B, T) rotary positions, 0 at each row's first token; pads count from 0 as well."""
        shape = self.chunk.ids.shape
        return (self.slots.view(shape) - self.pads[:, None]).clamp(min=0)

    def changed(self) -> None:
        """Drop what was derived from the running cells."""
        self._queries: _Queries | None = None
        self._angles: tuple[Tensor, Tensor] | None = None
        self._spans: list[tuple[int, int, int]] | None = None
        self._single = None

    def angles(self) -> tuple[Tensor, Tensor]:
        """(N, P) rotary cosines and sines of the running cells."""
        if self._angles is None:
            whole = self.whole
            self._angles = (
                (self.cos, self.sin) if whole else (self.cos[self.cells], self.sin[self.cells])
            )
        return self._angles

    def spans(self, window: int | None) -> list[tuple[int, int, int]]:
        """Where one token a row runs: the row of each running cell, and the slots it sees."""
        if self._spans is None:
            self._spans = []
            rows = self.state_rows[self.cells].tolist()
            for row, slot in zip(rows, self.slots[self.cells].tolist(), strict=True):
                end = slot + 1
                start = self.state.pads[row]
                if window is not None:
                    start = max(start, end - window)
                self._spans.append((row, start, end))
        return self._spans

    def queries(self, window: int | None, *, additive: torch.dtype | None) -> _Queries:
        """The layout of the running cells; ``additive`` asks for a mask of that float type."""
        if self._queries is None:
            self._queries = self._lay_out(window, additive)
        return self._queries

    def _lay_out(self, window: int | None, additive: torch.dtype | None) -> _Queries:
        batch, width = self.chunk.ids.shape
        if self.whole:
            rows, place, shape = None, None, (batch, width)
            chunk_rows = torch.arange(batch, device=self.slots.device)
            slots = self.slots.view(batch, width)
        else:
            row_of = self.cells // width
            chunk_rows, index, counts = torch.unique_consecutive(
                row_of, return_inverse=True, return_counts=True
            )
            first = counts.cumsum(0) - counts
            rank = torch.arange(row_of.shape[0], device=row_of.device) - first[index]
            shape = (chunk_rows.shape[0], int(counts.max()))
            place = index * shape[1] + rank
            slots = self.slots.new_zeros(shape).flatten()
            slots[place] = self.slots[self.cells]
            slots = slots.view(shape)
            rows = chunk_rows
            if shape[0] * shape[1] == place.shape[0]:
                place = None
        if not (rows is None and self.all_rows):
            rows = self.state_rows.view(batch, width)[chunk_rows, 0]
        return _Queries(rows, place, shape, self._mask(slots, chunk_rows, window, additive))

    def _mask(
        self, slots: Tensor, chunk_rows: Tensor, window: int | None, additive: torch.dtype | None
    ) -> Tensor | None:
        inside = window is None or self.used < window
        from_empty = self.chunk.prefill and self.whole and additive is None
        one_token = self.chunk.width == 1
        if self.no_pads and self.level and inside and (from_empty or one_token):
            return None  # the kernel's own causal rule says the same, and may be faster
        keys = torch.arange(self.used, device=slots.device)
        queries = slots[:, :, None]
        visible = (keys <= queries) & (keys >= self.pads[chunk_rows][:, None, None])
        if window is not None:
            visible &= queries - keys < window
        visible |= keys == queries  # a pad sees itself: a row without any key would be NaN
        mask = visible[:, None]
        if additive is None:
            return mask
        floor = torch.finfo(additive).min
        return torch.zeros_like(mask, dtype=additive).masked_fill(~mask, floor)
