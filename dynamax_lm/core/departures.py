"""What becomes of tokens that leave: they are gone for good, or wait and catch up.

Owns which cells run at a layer. It does not know why a token leaves, nor an architecture.

Glossary: N new tokens of the chunk, n of them undecided, M cells that run (n and those that catch
up beside them), D width, L layers.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dynamax_lm.core.pending import Waiting
from dynamax_lm.core.stack import Run


class Departures(Protocol):
    """Between two layers: who joins, who is asked, who goes."""

    def arrive(self, layer: int, hidden: Tensor) -> Tensor:
        """(M, D) what runs through ``layer``, from 0: ``hidden`` and those that join it there."""
        ...

    def undecided(self, hidden: Tensor) -> Tensor:
        """(n, D) of the tokens that have not left, from (M, D)."""
        ...

    def leave(self, leaving: Tensor, hidden: Tensor, depth: int) -> Tensor:
        """(M, D) what runs on after the undecided with ``leaving`` (n,) left ``depth`` layers."""
        ...

    def close(self) -> None:
        """The pass is over."""
        ...


class Gone:
    """Who left runs no more; the stack gives skipped layers their state."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def arrive(self, layer: int, hidden: Tensor) -> Tensor:
        del layer
        return hidden

    def undecided(self, hidden: Tensor) -> Tensor:
        return hidden

    def leave(self, leaving: Tensor, hidden: Tensor, depth: int) -> Tensor:
        del depth
        self._run.leave(leaving, hidden)
        return hidden[(~leaving).to(hidden.device)]

    def close(self) -> None:
        """Nothing waits."""


class CatchUp:
    """``recompute``: who left waits, and runs on beside a later token of the row that goes deeper.

    A layer then reads its weights once for both, and what it remembers is exact. A cell runs while
    an undecided one stands at or after it in its row; in a row without new tokens, all that wait
    are run to the end.

    Args:
        run: the pass, just begun; those that wait stand in front of each row's new tokens.
        waiting: who waits in the state; brought up to date by ``close``.
    """

    def __init__(self, run: Run, waiting: Waiting) -> None:
        self._run, self._waiting = run, waiting
        chunk, cells = run.chunk, run.cells
        self._all, device = cells, cells.device
        known = torch.tensor(chunk.already_known, device=device)
        new = cells % chunk.width >= known[cells // chunk.width]
        ends = torch.tensor(chunk.lengths, device=device) - 1
        starts = torch.arange(len(chunk.rows), device=device) * chunk.width
        self._last = starts + ends  # (B,) the last cell of each row that is still wanted
        self._depth = torch.full((chunk.ids.numel(),), -1, device=device)  # of cells that wait
        self._hidden: Tensor | None = None  # (B * T, D)
        self._sleeping: set[int] = set()
        if not bool(new.all()):
            depths = [d for row in chunk.rows for d in waiting.depths(row)]
            self._rest(cells[~new], torch.tensor(depths), waiting.hidden(chunk.rows, device))
            run.keep(new)
        self._open = torch.ones_like(run.cells, dtype=torch.bool)

    def arrive(self, layer: int, hidden: Tensor) -> Tensor:
        if layer not in self._sleeping:
            return hidden
        run, width = self._run, self._run.chunk.width
        waking = (self._depth == layer).nonzero().flatten()
        waking = waking[waking <= self._last[waking // width]]
        if not waking.shape[0]:
            return hidden
        assert self._hidden is not None
        joined = torch.cat([run.cells, waking])
        order = joined.argsort()
        self._depth[waking] = -1
        self._open = torch.cat([self._open, torch.zeros_like(waking, dtype=torch.bool)])[order]
        run.place(joined[order])
        woken = self._hidden[waking.to(self._hidden.device)]
        return torch.cat([hidden, woken.to(hidden.device, hidden.dtype)])[order.to(hidden.device)]

    def undecided(self, hidden: Tensor) -> Tensor:
        return hidden if bool(self._open.all()) else hidden[self._open.to(hidden.device)]

    def leave(self, leaving: Tensor, hidden: Tensor, depth: int) -> Tensor:
        run = self._run
        self._open[self._open.nonzero().flatten()[leaving.to(self._open.device)]] = False
        row = run.cells // run.chunk.width
        last = torch.full_like(self._last, -1)
        self._last = last.scatter_reduce(0, row[self._open], run.cells[self._open], "amax")
        wanted = run.cells <= self._last[row]
        on = wanted.to(hidden.device)
        self._rest(run.cells[~wanted], torch.tensor([depth]), hidden[~on])
        run.keep(wanted)
        self._open = self._open[wanted]
        return hidden[on]

    def close(self) -> None:
        chunk = self._run.chunk
        for place, (row, length) in enumerate(zip(chunk.rows, chunk.lengths, strict=True)):
            depths = self._depth[place * chunk.width : place * chunk.width + length]
            resting = (depths >= 0).nonzero().flatten()
            if not resting.shape[0] or self._hidden is None:
                self._waiting.keep(row, [], self._all)
                continue
            cells = (resting + place * chunk.width).to(self._hidden.device)
            self._waiting.keep(row, depths[resting].tolist(), self._hidden[cells])

    def _rest(self, cells: Tensor, depths: Tensor, hidden: Tensor) -> None:
        """From now on ``cells`` wait at ``depths`` with ``hidden``."""
        if self._hidden is None:
            self._hidden = hidden.new_zeros(self._depth.shape[0], hidden.shape[1])
        self._depth[cells] = depths.to(cells.device)
        self._hidden[cells.to(self._hidden.device)] = hidden.to(self._hidden)
        self._sleeping.update(depths.tolist())
