"""The recurrent state of Mamba-2 layers, and how it returns to an earlier token of a draft.

Glossary: B rows, N running slots, C channels of the convolution (x, B and C together), K its width,
H heads, P head width, S SSM state size, R raw step sizes of a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

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
