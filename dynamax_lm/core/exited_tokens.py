"""Drop exited tokens, or defer their remaining layers: which slots run at each layer of a pass.

Glossary: N new tokens of the token batch, n of them not exited so far, M running slots (the n, and
deferred ones that run in the same batch), D width, L layers.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dynamax_lm.core.pending import PendingTokens
from dynamax_lm.core.stack import ForwardPass


class RunningSlots(Protocol):
    """Which slots run through the next layer of a pass."""

    def resume(self, layer: int, hidden: Tensor) -> Tensor:
        """(M, D) inputs of ``layer``, from 0: ``hidden`` and deferred slots that resume there."""
        ...

    def not_exited(self, hidden: Tensor) -> Tensor:
        """(n, D) of the tokens that have not exited, from (M, D)."""
        ...

    def remove(self, exiting: Tensor, hidden: Tensor, depth: int) -> Tensor:
        """(M, D) of the slots still running after ``exiting`` (n,) exit at ``depth`` layers."""
        ...

    def close(self) -> None:
        """The pass is over."""
        ...


class DropExited:
    """An exited token runs no further layer; the decoder fills the state of the skipped layers."""

    def __init__(self, run: ForwardPass) -> None:
        self._run = run

    def resume(self, layer: int, hidden: Tensor) -> Tensor:
        del layer
        return hidden

    def not_exited(self, hidden: Tensor) -> Tensor:
        return hidden

    def remove(self, exiting: Tensor, hidden: Tensor, depth: int) -> Tensor:
        del depth
        self._run.freeze(exiting, hidden)
        return hidden[(~exiting).to(hidden.device)]

    def close(self) -> None:
        """No token is pending."""


class DeferExited:
    """``recompute`` (EE-LLM): an exited token runs deeper layers with a later token of its row.

    A layer then reads its weights once for both, and its state is exact. A slot runs while its
    token or a later one of its row has not exited; in a row without new tokens, all pending tokens
    run to the last layer.

    Args:
        run: the pass, just begun; pending tokens precede each row's new ones.
        pending: pending tokens of the state; updated by ``close``.
    """

    def __init__(self, run: ForwardPass, pending: PendingTokens) -> None:
        self._run, self._pending = run, pending
        token_batch, slots = run.token_batch, run.slots
        self._all, device = slots, slots.device
        known = torch.tensor(token_batch.already_known, device=device)
        new = slots % token_batch.width >= known[slots // token_batch.width]
        ends = torch.tensor(token_batch.lengths, device=device) - 1
        starts = torch.arange(len(token_batch.rows), device=device) * token_batch.width
        self._last = starts + ends  # (B,) the last slot that needs to run, by row
        self._depth = torch.full((token_batch.ids.numel(),), -1, device=device)  # of deferred slots
        self._hidden: Tensor | None = None  # (B * T, D)
        self._deferred_at: set[int] = set()
        if not bool(new.all()):
            depths = [d for row in token_batch.rows for d in pending.depths(row)]
            self._defer(slots[~new], torch.tensor(depths), pending.hidden(token_batch.rows, device))
            run.keep(new)
        self._open = torch.ones_like(run.slots, dtype=torch.bool)

    def resume(self, layer: int, hidden: Tensor) -> Tensor:
        if layer not in self._deferred_at:
            return hidden
        run, width = self._run, self._run.token_batch.width
        resuming = (self._depth == layer).nonzero().flatten()
        resuming = resuming[resuming <= self._last[resuming // width]]
        if not resuming.shape[0]:
            return hidden
        assert self._hidden is not None
        joined = torch.cat([run.slots, resuming])
        order = joined.argsort()
        self._depth[resuming] = -1
        self._open = torch.cat([self._open, torch.zeros_like(resuming, dtype=torch.bool)])[order]
        run.set_slots(joined[order])
        resumed = self._hidden[resuming.to(self._hidden.device)]
        return torch.cat([hidden, resumed.to(hidden.device, hidden.dtype)])[order.to(hidden.device)]

    def not_exited(self, hidden: Tensor) -> Tensor:
        return hidden if bool(self._open.all()) else hidden[self._open.to(hidden.device)]

    def remove(self, exiting: Tensor, hidden: Tensor, depth: int) -> Tensor:
        run = self._run
        self._open[self._open.nonzero().flatten()[exiting.to(self._open.device)]] = False
        row = run.slots // run.token_batch.width
        last = torch.full_like(self._last, -1)
        self._last = last.scatter_reduce(0, row[self._open], run.slots[self._open], "amax")
        needed = run.slots <= self._last[row]
        on = needed.to(hidden.device)
        self._defer(run.slots[~needed], torch.tensor([depth]), hidden[~on])
        run.keep(needed)
        self._open = self._open[needed]
        return hidden[on]

    def close(self) -> None:
        token_batch = self._run.token_batch
        for place, row in enumerate(token_batch.rows):
            first = place * token_batch.width
            depths = self._depth[first : first + token_batch.lengths[place]]
            deferred = (depths >= 0).nonzero().flatten()
            if not deferred.shape[0] or self._hidden is None:
                self._pending.keep(row, [], [], self._all)
                continue
            slots = (deferred + first).to(self._hidden.device)
            ids = token_batch.ids[place, deferred].tolist()
            self._pending.keep(row, depths[deferred].tolist(), ids, self._hidden[slots])

    def _defer(self, slots: Tensor, depths: Tensor, hidden: Tensor) -> None:
        """Defer ``slots``, which have run ``depths`` layers, with ``hidden``."""
        if self._hidden is None:
            self._hidden = hidden.new_zeros(self._depth.shape[0], hidden.shape[1])
        self._depth[slots] = depths.to(slots.device)
        self._hidden[slots.to(self._hidden.device)] = hidden.to(self._hidden)
        self._deferred_at.update(depths.tolist())
