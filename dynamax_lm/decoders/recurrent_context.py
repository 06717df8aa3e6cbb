"""The layout of the running slots in a recurrent layer's input.

Glossary: B rows, T tokens of the longest, N running slots, E elements of a slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.recorded_steps import StepRows
from dynamax_lm.decoders.recurrent_state import Recurrence, Rows
from dynamax_lm.decoders.rows import RowLengths


class RecurrentContext:
    """The layout of the slots of a pass, for all layers of a decoder.

    Args:
        run: the pass.
        rows: padding and lengths of the rows.
        shorter: whether a layer's input has only the tokens that reach it in this pass: under
            ``freeze`` and ``recompute``.

    Attributes:
        all_rows: whether the token batch has every row of the state, in order.
        state_rows: (B,) the state's rows.
        mask: (B, T, 1), 0 at the padding of a prefill, or ``None`` without padding.
        in_place: whether states keep their tensors.
    """

    in_place = False

    def __init__(self, run: ForwardPass, rows: RowLengths, *, shorter: bool) -> None:
        self.run = run
        self._shorter = shorter
        token_batch, device = run.token_batch, run.token_batch.ids.device
        self.all_rows = rows.covers(token_batch)
        self.state_rows = torch.tensor(token_batch.rows, device=device)
        self._lengths = torch.tensor(token_batch.lengths, device=device)
        self.mask: Tensor | None = None
        if token_batch.prefill and not token_batch.even:
            offsets = torch.arange(token_batch.width, device=device)
            self.mask = (offsets >= token_batch.width - self._lengths[:, None])[:, :, None]
        self.changed()

    def changed(self) -> None:
        """Discard what was derived from the running slots."""
        self._places: tuple[Tensor, Tensor, int] | None = None
        self._reached: list[int] | None = None
        self._step_rows: tuple[Rows | None, Rows] | None = None
        self._slot_rows: list[int] | None = None

    @property
    def sees_frozen(self) -> bool:
        """Whether there are frozen slots that a layer sees."""
        return self.run.frozen_hidden is not None and not self._shorter

    def masked(self, flat: Tensor) -> Tensor:
        """(N, E) ``flat`` with zeros where a running slot is the padding of a prefill."""
        if self.mask is None or not flat.shape[0]:
            return flat
        rectangle = flat.unflatten(0, self.run.token_batch.ids.shape)
        masked: Tensor = rectangle * self.mask.to(flat.device)
        return masked.to(flat.dtype).flatten(0, 1)

    def reached(self) -> list[int]:
        """Tokens of each row of the token batch that reach the current layer."""
        if self._reached is None:
            if self.run.any_stopped and self._shorter:
                self._reached = self._counts(self.run.slots).tolist()
            else:
                self._reached = list(self.run.token_batch.lengths)
        return self._reached

    def count(self, state: Recurrence) -> None:
        """Count the tokens that reach the layer of ``state``."""
        state.count(self.run.token_batch.rows, self.reached())

    def batch_rows(self) -> Rows | None:
        """The state's rows of the token batch; ``None`` for all, in order."""
        return None if self.all_rows else list(self.run.token_batch.rows)

    def step_rows(self) -> tuple[Rows | None, Rows]:
        """For one token a row: the state's rows that run, and those whose token exited.

        ``None`` stands for all rows, in order.
        """
        if self._step_rows is None:
            rows, width = self.run.token_batch.rows, self.run.token_batch.width
            running = None
            if not (self.run.whole and self.all_rows):
                running = [rows[slot // width] for slot in self.run.slots.tolist()]
            self._step_rows = running, [rows[slot // width] for slot in self.run.frozen.tolist()]
        return self._step_rows

    def slot_rows(self) -> list[int]:
        """The state's row of each running slot."""
        if self._slot_rows is None:
            rows, width = self.run.token_batch.rows, self.run.token_batch.width
            self._slot_rows = [rows[slot // width] for slot in self.run.slots.tolist()]
        return self._slot_rows

    def places(self) -> tuple[Tensor, Tensor, int]:
        """Places of the running slots in a layer's input.

        Returns:
            (N,) places in the (B, T') rectangle; (B,) tokens of each row; T'. Under ``freeze`` and
            ``recompute`` the input has the tokens that reach the layer in this pass; else the whole
            token batch.
        """
        if self._places is None:
            width = self.run.token_batch.width
            self._places = self.run.slots, self._lengths, width
            if self.run.any_stopped and self._shorter:
                counts = self._counts(self.run.slots)
                first = counts.cumsum(0) - counts
                row = self.run.slots // width
                rank = torch.arange(self.run.slots.shape[0], device=row.device) - first[row]
                shorter = int(counts.max())
                self._places = row * shorter + rank, counts, shorter
        return self._places

    def _counts(self, slots: Tensor) -> Tensor:
        """(B,) how many of ``slots`` each row has."""
        token_batch = self.run.token_batch
        return torch.bincount(slots // token_batch.width, minlength=len(token_batch.rows))


class RecurrentStepContext(RecurrentContext):
    """The same for a recorded step: all from tensors on the device.

    Args:
        run: the pass.
        step: its rows.
        shorter: see :class:`RecurrentContext`.
    """

    in_place = True

    def __init__(self, run: ForwardPass, step: StepRows, *, shorter: bool) -> None:
        self.run, self._shorter, self._step = run, shorter, step
        self.all_rows, self.state_rows = step.all_rows, step.rows
        self.mask = None
        self.changed()

    def count(self, state: Recurrence) -> None:
        """Nothing: a replay counts its tokens itself."""

    def batch_rows(self) -> Rows | None:
        return None if self.all_rows else self._step.rows

    def step_rows(self) -> tuple[Rows | None, Rows]:
        return self.batch_rows(), []

    def places(self) -> tuple[Tensor, Tensor, int]:
        if self._places is None:
            slots = self.run.slots
            self._places = slots, self._step.lengths, self.run.token_batch.width
            if not self.sees_frozen:
                each = torch.arange(slots.shape[0], device=slots.device)
                self._places = each, torch.ones_like(each), 1
        return self._places
