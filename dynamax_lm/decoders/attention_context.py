"""The columns, positions, masks and query layout of a pass over the key-value cache.

Glossary: B rows, N running slots, H query heads, P head width, S columns. A *slot* is a token slot
of the pass, not a place in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.attention_state import KeyValues
from dynamax_lm.decoders.recorded_steps import StepRows
from dynamax_lm.decoders.rows import RowLengths

FEW = 32
"""Most tokens of a row whose queries are computed row by row on views of the cache."""

_COPIED = 128 * 1024
"""Most bytes of a row's keys and values that are copied to attend to several rows in one call: more
take longer than a call for each row on views of the cache."""


@dataclass(frozen=True, slots=True)
class _Queries:
    """The layout of the running slots in the attention product.

    Attributes:
        rows: the state's rows that have a query, or ``None`` for all of them, in order.
        place: (N,) place of each slot in the (B', Tq) rectangle, or ``None`` if it fills it.
        shape: (B', Tq).
        mask: (B', 1, Tq, S) or ``None``.
    """

    rows: Tensor | None
    place: Tensor | None
    shape: tuple[int, int]
    mask: Tensor | None


class Stretch(NamedTuple):
    """Some tokens of a row and what they see.

    Attributes:
        row: the state's row.
        slots: their places among the running slots.
        columns: those that any of them sees.
        mask: (R * T, S) added to their scores: 0, or -inf at columns that a token does not see; R
            query heads share a key/value head.
    """

    row: int
    slots: slice
    columns: slice
    mask: Tensor


class Spans(NamedTuple):
    """For one token a row: the columns that the rows see, as one rectangle.

    Attributes:
        rows: (N,) the state's rows.
        columns: those that any row sees.
        mask: (N, 1, 1, S) added to the scores: 0, or -inf at columns that a row does not see.
    """

    rows: Tensor
    columns: slice
    mask: Tensor


class AttentionContext:
    """Columns, rotary angles and the layout of the queries, for all layers of a pass.

    Args:
        run: the pass.
        rows: padding and lengths of the rows.
        window: largest number of visible keys; ``None`` for all.

    Attributes:
        columns: (B * T,) the column of every slot.
        state_rows: (B * T,) the state's row of every slot.
        cos: (B * T, P) rotary cosines; ``sin`` likewise. Set by the kind, from ``positions``.
        scale: (B * T,) factor of the queries, where their position has one. Set likewise.
        used: columns in use by any row after the token batch.
        block: whether the token batch occupies the same columns in every row of the state.
    """

    cos: Tensor
    sin: Tensor
    scale: Tensor

    def __init__(self, run: ForwardPass, rows: RowLengths, window: int | None) -> None:
        self.run = run
        self._rows, self._window = rows, window
        token_batch, device = run.token_batch, run.token_batch.ids.device
        starts = rows.starts(token_batch)
        offsets = torch.arange(token_batch.width, device=device)
        self.columns = (torch.tensor(starts, device=device)[:, None] + offsets).flatten()
        batch_rows = torch.tensor(token_batch.rows, device=device)
        self.state_rows = batch_rows.repeat_interleave(token_batch.width)
        self.used = max(starts) + token_batch.width
        self.no_pads = not any(rows.pads[row] for row in token_batch.rows)
        self._pads = torch.tensor([rows.pads[row] for row in token_batch.rows], device=device)
        self._level = min(starts) == max(starts) and token_batch.even
        self._all_rows = rows.covers(token_batch)
        self.block = self._level and self._all_rows
        self.changed()

    def changed(self) -> None:
        """Discard what was derived from the running slots."""
        self._queries: _Queries | None = None
        self._angles: tuple[Tensor, Tensor] | None = None
        self._spans: list[tuple[int, int, int]] | None = None
        self._rectangle: Spans | None = None
        self._stretches: list[Stretch] | None = None
        self._single: bool | None = None

    @property
    def few_tokens(self) -> bool:
        """Whether all tokens are known, as in the verification of drafts: a few of each row."""
        token_batch = self.run.token_batch
        return (
            not token_batch.prefill
            and token_batch.known == token_batch.lengths
            and token_batch.width <= FEW
        )

    @property
    def one_token(self) -> bool:
        """Whether each running row has one running slot, as in a decoding step."""
        if self._single is None:
            single = not self.run.token_batch.prefill
            if single and self.run.token_batch.width > 1:
                rows = self.run.slots // self.run.token_batch.width
                single = not bool((rows[1:] == rows[:-1]).any())
            self._single = single
        return self._single

    def positions(self) -> Tensor:
        """(B, T) rotary positions, 0 at each row's first token; padding counts from 0 as well."""
        shape = self.run.token_batch.ids.shape
        return (self.columns.view(shape) - self._pads[:, None]).clamp(min=0)

    def store(self, state: KeyValues, key: Tensor, value: Tensor) -> None:
        """Write (N, G, P) keys and values of the running slots."""
        run, shape = self.run, self.run.token_batch.ids.shape
        if run.whole and self.block:
            new = slice(self.used - shape[1], self.used)
            state.write_block(new, key.unflatten(0, shape), value.unflatten(0, shape))
        else:
            state.write(self.state_rows[run.slots], self.columns[run.slots], key, value)

    def angles(self) -> tuple[Tensor, Tensor]:
        """(N, P) rotary cosines and sines of the running slots."""
        if self._angles is None:
            whole = self.run.whole
            self._angles = (
                (self.cos, self.sin)
                if whole
                else (self.cos[self.run.slots], self.sin[self.run.slots])
            )
        return self._angles

    def spans(self) -> list[tuple[int, int, int]]:
        """For one token a row: the row of each running slot, and its visible columns."""
        if self._spans is None:
            self._spans = []
            rows = self.state_rows[self.run.slots].tolist()
            for row, column in zip(rows, self.columns[self.run.slots].tolist(), strict=True):
                end = column + 1
                start = self._rows.pads[row]
                if self._window is not None:
                    start = max(start, end - self._window)
                self._spans.append((row, start, end))
        return self._spans

    def rectangle(self, state: KeyValues) -> Spans | None:
        """The spans of all rows together, or ``None`` where a call for each row is faster."""
        spans = self.spans()
        first, last = min(start for _, start, _ in spans), max(end for _, _, end in spans)
        keys = state.keys
        copied = 2 * keys.shape[1] * (last - first) * keys.shape[3] * keys.element_size()
        if len(spans) == 1 or copied > _COPIED:
            return None
        if self._rectangle is None:
            rows, starts, ends = torch.tensor(spans, device=keys.device).unbind(1)
            columns = torch.arange(first, last, device=keys.device)
            hidden = (columns < starts[:, None]) | (columns >= ends[:, None])
            mask = torch.zeros(hidden.shape, dtype=keys.dtype, device=keys.device)
            mask.masked_fill_(hidden, -torch.inf)
            self._rectangle = Spans(rows, slice(first, last), mask[:, None, None])
        return self._rectangle

    def stretches(self, dtype: torch.dtype, heads: int) -> list[Stretch]:
        """For adjacent tokens of a row: the running slots of each row, and the columns they see.

        Args:
            dtype: of the masks.
            heads: R, query heads that share a key/value head.
        """
        if self._stretches is None:
            self._stretches = []
            width = self.run.token_batch.width
            owners, counts = torch.unique_consecutive(self.run.slots // width, return_counts=True)
            columns, end = self.columns[self.run.slots], 0
            for owner, count in zip(owners.tolist(), counts.tolist(), strict=True):
                start, end = end, end + count
                own = columns[start:end]
                row, last = self.run.token_batch.rows[owner], int(own[-1]) + 1
                first = self._rows.pads[row]
                if self._window is not None:
                    first = max(first, int(own[0]) + 1 - self._window)
                keys = torch.arange(first, last, device=columns.device)
                hidden = keys > own[:, None]
                if self._window is not None:
                    hidden |= keys <= own[:, None] - self._window
                mask = torch.zeros(hidden.shape, dtype=dtype, device=columns.device)
                mask.masked_fill_(hidden, -torch.inf)
                places = slice(start, end), slice(first, last)
                self._stretches.append(Stretch(row, *places, mask.repeat(heads, 1)))
        return self._stretches

    def queries(self, *, additive: torch.dtype | None) -> _Queries:
        """The layout of the running slots; ``additive``: float type of an additive mask, if any."""
        if self._queries is None:
            self._queries = self._lay_out(additive)
        return self._queries

    def _lay_out(self, additive: torch.dtype | None) -> _Queries:
        batch, width = self.run.token_batch.ids.shape
        if self.run.whole:
            rows, place, shape = None, None, (batch, width)
            batch_rows = torch.arange(batch, device=self.columns.device)
            columns = self.columns.view(batch, width)
        else:
            row_of = self.run.slots // width
            batch_rows, index, counts = torch.unique_consecutive(
                row_of, return_inverse=True, return_counts=True
            )
            first = counts.cumsum(0) - counts
            rank = torch.arange(row_of.shape[0], device=row_of.device) - first[index]
            shape = (batch_rows.shape[0], int(counts.max()))
            place = index * shape[1] + rank
            columns = self.columns.new_zeros(shape).flatten()
            columns[place] = self.columns[self.run.slots]
            columns = columns.view(shape)
            rows = batch_rows
            if shape[0] * shape[1] == place.shape[0]:
                place = None
        if not (rows is None and self._all_rows):
            rows = self.state_rows.view(batch, width)[batch_rows, 0]
        return _Queries(rows, place, shape, self._mask(columns, batch_rows, additive))

    def _mask(
        self, columns: Tensor, batch_rows: Tensor, additive: torch.dtype | None
    ) -> Tensor | None:
        window = self._window
        inside = window is None or self.used < window
        from_empty = self.run.token_batch.prefill and self.run.whole and additive is None
        one_token = self.run.token_batch.width == 1
        if self.no_pads and self._level and inside and (from_empty or one_token):
            return None  # the kernel's own causal mask is equal, and may be faster
        keys = torch.arange(self.used, device=columns.device)
        queries = columns[:, :, None]
        visible = (keys <= queries) & (keys >= self._pads[batch_rows][:, None, None])
        if window is not None:
            visible &= queries - keys < window
        visible |= keys == queries  # padding attends to itself: a row without any key would be NaN
        mask = visible[:, None]
        if additive is None:
            return mask
        floor = torch.finfo(additive).min
        return torch.zeros_like(mask, dtype=additive).masked_fill(~mask, floor)


class StepContext(AttentionContext):
    """The same for a recorded step: all from tensors on the device.

    Args:
        run: the pass.
        step: its rows.
        window: largest number of visible keys; ``None`` for all.
        number_format: of the additive mask.
    """

    def __init__(
        self, run: ForwardPass, step: StepRows, window: int | None, number_format: torch.dtype
    ) -> None:
        self.run, self._window, self._step = run, window, step
        width = step.ids.shape[1]
        offsets = torch.arange(width, device=step.ids.device)
        self.columns = (step.starts[:, None] + offsets).flatten()
        self.state_rows = step.rows.repeat_interleave(width)
        self.used = step.columns
        self._pads = step.pads
        self.block = self.no_pads = False
        self.changed()
        keys = torch.arange(step.columns, device=step.ids.device)
        last = self.columns[run.slots][:, None]  # of every row, or of none
        visible = (keys <= last) & (keys >= step.pads[: last.shape[0], None])
        if window is not None:
            visible &= last - keys < window
        hidden = torch.zeros(visible.shape, dtype=number_format, device=keys.device)
        self._additive = hidden.masked_fill(~visible, torch.finfo(number_format).min)

    @property
    def one_token(self) -> bool:
        return False

    def keys_and_values(self, state: KeyValues) -> tuple[Tensor, Tensor, Tensor]:
        """(N, G, S, P) keys and values of the step's rows, and the (N, 1, 1, S) additive mask."""
        keys, values = state.keys[:, :, : self.used], state.values[:, :, : self.used]
        if not self._step.all_rows:
            keys, values = keys[self._step.rows], values[self._step.rows]
        return keys, values, self._additive[:, None, None]
