"""The recurrent state of Mamba-2 layers, and the layout of the running slots in a layer's input.

Glossary: B rows, T tokens of the longest, N running slots, C channels of the convolution (x, B and
C together), K its width, H heads, P head width, S SSM state size, R raw step sizes of a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.recorded_steps import StepRows
from dynamax_lm.decoders.rows import RowLengths

Rows = list[int] | Tensor
"""Rows of a state; a tensor where they differ between replays of a recorded step."""


class StateInputs(NamedTuple):
    """What the state reads of some tokens.

    Attributes:
        xbc: (N, C) inputs of the convolution, before activation.
        convolved: (N, C) its outputs.
        dt: (N, R) raw step sizes.
    """

    xbc: Tensor
    convolved: Tensor
    dt: Tensor


@dataclass
class DraftLog:
    """Data with which a layer returns to an earlier token of a draft.

    It is the state before the draft, and the state's inputs of every token since then: the accepted
    tokens are replayed without their projections and their convolution. A copy of the state for
    every token would be many times larger.

    Attributes:
        conv: (B, K, C) windows before the draft, of the rows that draft.
        ssm: (B, H, P, S) states before it.
        passes: of each pass since the oldest draft began, the row of each token (a row's tokens are
            adjacent and in order), and the inputs.
        begun: by row, how many of these passes precede its draft.
    """

    conv: Tensor
    ssm: Tensor
    passes: list[tuple[list[int], StateInputs]] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)

    def begin(self, rows: Sequence[int]) -> None:
        """The drafts of ``rows`` begin; passes that no draft needs are discarded."""
        self.begun.update((row, len(self.passes)) for row in rows)
        self._discard()

    def end(self, rows: Sequence[int]) -> None:
        """The drafts of ``rows`` end; passes that no draft needs are discarded."""
        for row in rows:
            self.begun.pop(row, None)
        self._discard()

    def _discard(self) -> None:
        if unused := min(self.begun.values(), default=len(self.passes)):
            del self.passes[:unused]
            self.begun = {row: place - unused for row, place in self.begun.items()}

    def add(self, rows: list[int], inputs: StateInputs) -> None:
        """Record one token for each entry of ``rows``."""
        self.passes.append((rows, inputs))

    def passes_of(self, rows: Iterable[int]) -> list[tuple[list[int], StateInputs]]:
        """The passes since the first of the drafts of ``rows`` began."""
        return self.passes[min(self.begun[row] for row in rows) :]

    def pattern(self, rows: Iterable[int]) -> tuple[tuple[int, ...], ...]:
        """The rows of the tokens of each of these passes."""
        return tuple(tuple(owners) for owners, _ in self.passes_of(rows))

    def places(self, row: int, passes: Sequence[tuple[list[int], StateInputs]]) -> list[int]:
        """Places of the tokens of ``row`` since its draft began, in the tokens of ``passes``."""
        skipped = self.begun[row] - (len(self.passes) - len(passes))
        owners = [(number, owner) for number, (rows, _) in enumerate(passes) for owner in rows]
        return [
            place
            for place, (number, owner) in enumerate(owners)
            if owner == row and number >= skipped
        ]


@dataclass
class Recurrence:
    """Convolution window and SSM state of one layer.

    Attributes:
        tokens: number of tokens in the state, per row.
        conv: (B, K, C), the convolution's last inputs, oldest first.
        ssm: (B, H, P, S), of Mamba-1 (B, S, I); float32.
        draft: for tokens that can be withdrawn; ``None`` where none can.
    """

    tokens: list[int]
    conv: Tensor
    ssm: Tensor
    draft: DraftLog | None = None

    def seen(self, given: list[int]) -> list[int]:
        """Tokens in the state, per row: under ``freeze`` fewer than were given."""
        del given
        return list(self.tokens)

    def tensors(self) -> tuple[Tensor, ...]:
        """Window and state."""
        return self.conv, self.ssm

    def count(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        """Count new tokens of ``rows``."""
        for row, count in zip(rows, counts, strict=True):
            self.tokens[row] += count

    def mark(self) -> Recurrence:
        """A copy: both tensors are written in place."""
        return Recurrence(list(self.tokens), self.conv.clone(), self.ssm.clone())

    def rewind(self, mark: Recurrence) -> None:
        """Restore the snapshot ``mark``, which stays usable."""
        copy = mark.mark()
        self.tokens, self.conv, self.ssm = copy.tokens, copy.conv, copy.ssm

    def begin_draft(self, rows: Sequence[int]) -> None:
        """Save the state of ``rows``, and record the inputs of their tokens from now on."""
        if self.draft is None:
            self.draft = DraftLog(self.conv.clone(), self.ssm.clone())
        elif len(rows) == len(self.tokens):
            self.draft.conv.copy_(self.conv)
            self.draft.ssm.copy_(self.ssm)
        else:
            index = list(rows)
            self.draft.conv[index] = self.conv[index]
            self.draft.ssm[index] = self.ssm[index]
        self.draft.begin(rows)

    def end_draft(self, rows: Sequence[int]) -> None:
        """The drafts of ``rows`` need no record any more."""
        if self.draft is not None:
            self.draft.end(rows)

    def with_rows(self, old: Tensor, rows: list[int], new: Tensor) -> Tensor:
        """``old`` (B, ...), one of the state's tensors, with ``new`` in ``rows``."""
        if rows == list(range(len(self.tokens))):
            return new.to(old.dtype)
        old[rows] = new.to(old.dtype)
        return old

    def put(
        self, rows: Sequence[int], source: Recurrence, taken: Sequence[int], lengths: RowLengths
    ) -> None:
        """Copy rows ``taken`` of ``source`` over ``rows``; padding is not part of the state."""
        del lengths
        for row, old in zip(rows, taken, strict=True):
            self.tokens[row] = source.tokens[old]
        self.conv[list(rows)] = source.conv[list(taken)]
        self.ssm[list(rows)] = source.ssm[list(taken)]

    def take(self, rows: Tensor) -> Recurrence:
        """An independent state of ``rows`` (B',), which may repeat."""
        tokens = [self.tokens[row] for row in rows.tolist()]
        return Recurrence(
            tokens, self.conv[rows.to(self.conv.device)], self.ssm[rows.to(self.ssm.device)]
        )


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


class Replay(NamedTuple):
    """The inputs of tokens that stay, of the same rows of several layers, side by side.

    Glossary: M rows, of one layer after the other; W tokens of the longest.

    Attributes:
        convolved: (M, W, C), zeros after a row's last token.
        dt: (M, W, R), -inf there: no step.
    """

    convolved: Tensor
    dt: Tensor

    @classmethod
    def of(cls, states: Sequence[Recurrence], kept: Mapping[int, int]) -> Replay:
        """Return the windows and token counts of ``states`` to the tokens that stay.

        Args:
            states: of layers of one shape, which have run the same passes since ``begin_draft``.
            kept: by row, how many of its tokens stay, at least 1.
        """
        drafts = [state.draft for state in states if state.draft is not None]
        first, width = drafts[0], max(kept.values())
        passes = first.passes_of(kept)
        total = sum(len(rows) for rows, _ in passes)
        xbc, convolved, dt = (
            torch.cat(
                [inputs[part] for draft in drafts for _, inputs in draft.passes_of(kept)]
            ).unflatten(0, (len(drafts), total))
            for part in range(3)
        )
        windows = torch.stack([draft.conv for draft in drafts])
        chosen, index = [], []
        for row, count in kept.items():
            places = first.places(row, passes)
            for state in states:
                state.tokens[row] -= len(places) - count
            stays = places[:count]
            seen = torch.cat([windows[:, row], xbc[:, stays].to(windows.dtype)], dim=1)
            chosen.append(seen[:, count:])
            index += [*stays, *[total] * (width - count)]
        for state, window in zip(states, torch.stack(chosen, dim=1), strict=True):
            state.conv = state.with_rows(state.conv, list(kept), window)
        shape = (len(drafts) * len(kept), width)
        ends = (torch.zeros_like(convolved[:, :1]), torch.full_like(dt[:, :1], -torch.inf))
        return cls(
            *(
                torch.cat([inputs, end], dim=1)[:, index].reshape(*shape, -1)
                for inputs, end in zip((convolved, dt), ends, strict=True)
            )
        )
