"""Decoding steps of static shape: what a CUDA graph can record, and replay with other tokens.

A step runs some layers over one token of each row, or of none, and computes the state that earlier,
exited tokens of these rows leave in them. Its shape is fixed by a `StepShape`; tokens, rows and
positions are read from buffers that are filled before every replay. Each shape is run as it is
once, and recorded the second time. This module has the buffers, the pass over them and the choice
of what to record; what a kind of layer shares in such a pass is made by its ``begin_step``, and
whether a layer can be recorded is its ``recordable``.

Recording only saves the launches of kernels, which take longer than the kernels themselves in a
step of few rows; the operations are the same.

Glossary: B rows of the state, N rows of a step, T tokens of its longest row, pending ones included,
M exited tokens, D width.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.skipped_states import is_outside
from dynamax_lm.core.stack import ForwardPass, TokenBatch

_log = logging.getLogger(__name__)

_SMALLEST = 256
"""Columns of a state that a step reads, rounded up to powers of two from here to ``_LARGE``, and
to multiples of it from there: columns beyond a row's length are masked."""
_LARGE = 1024

MOST_RECORDED = 256
"""Recorded steps of one state; others run as they are."""


class StepShape(NamedTuple):
    """What is the same in every replay of a step.

    Attributes:
        first: the first layer.
        last: the layer before which it stops.
        rows: N, rounded up to a power of two where the step has not every row of the state.
        tokens: T, rounded up.
        columns: columns of the state that attention reads.
        all_rows: whether the step has every row of the state, in order.
        runs: whether the last token of each row runs; if not, all have exited.
        skipped_state: the skipped-state policy.
    """

    first: int
    last: int
    rows: int
    tokens: int
    columns: int
    all_rows: bool
    runs: bool
    skipped_state: str

    @property
    def exited(self) -> int:
        """M: as many as N rows of T tokens can have, so that there are fewer shapes to record."""
        return (self.tokens - self.runs) * self.rows


@dataclass(frozen=True)
class StepRows:
    """Tokens and rows of a step, on the device.

    Attributes:
        ids: (N, T) token ids, the oldest of a row on the left.
        starts: (N,) column of each row's first token in the state.
        rows: (N,) the state's row of each row.
        pads: (N,) padding to the left of each row.
        lengths: (N,) tokens of each row, 1..T.
        exited: (M,) slots of the exited tokens; the last one repeats.
        columns: see `StepShape`.
        all_rows: likewise.
    """

    ids: Tensor
    starts: Tensor
    rows: Tensor
    pads: Tensor
    lengths: Tensor
    exited: Tensor
    columns: int
    all_rows: bool


class StepPass(ForwardPass):
    """A pass over a step's slots: each row's last token runs, or none, and the others have exited.

    Attributes:
        state: of the decoder.
        skipped_state: name of the policy for the exited slots.
        contexts: of each kind of layer, the data that its layers share.
    """

    def __init__(
        self,
        step: StepRows,
        exited_hidden: Tensor | None,
        state: Any,
        skipped_state: str,
        kinds: Sequence[Any],
        *,
        runs: bool,
    ) -> None:
        count, width = step.ids.shape
        super().__init__(
            TokenBatch(step.ids, (width,) * count, tuple(range(count)), known=(0,) * count)
        )
        last = torch.arange(count, device=step.ids.device) * width + step.lengths - 1
        self.slots = last if runs else last[:0]
        self.frozen, self.frozen_hidden = step.exited, exited_hidden
        self.any_stopped = True
        self.state, self.skipped_state = state, skipped_state
        self.contexts = [kind.begin_step(self, step, skipped_state) for kind in kinds]


@dataclass
class _Recorded:
    """One shape of a step, with its buffers.

    Attributes:
        shape: of it.
        numbers: all integers that a replay reads, in one buffer, so that one copy fills it.
        step: views of it.
        hidden: (N, D) of the running tokens, or (0, D); ``None`` before the embedding.
        exited_hidden: (M, D) of the exited tokens, if there are any.
        layers: whose states it reads or writes.
        graph: recorded on the second use.
        output: (N, D), which a replay writes.
        addresses: of the tensors of these states when the graph was recorded.
    """

    shape: StepShape
    numbers: Tensor
    step: StepRows
    hidden: Tensor | None
    exited_hidden: Tensor | None
    layers: Sequence[int]
    used: bool = False
    graph: Any = None
    output: Tensor | None = None
    addresses: tuple[Any, ...] = ()

    @classmethod
    def empty(cls, shape: StepShape, example: Tensor, layers: Sequence[int]) -> _Recorded:
        """Buffers of ``shape``, with the device, width and number format of ``example``."""
        n, t, m = shape.rows, shape.tokens, shape.exited
        numbers = torch.zeros(n * t + 4 * n + m, dtype=torch.long, device=example.device)
        ids, starts, rows, pads, lengths, exited = numbers.split([n * t, n, n, n, n, m])
        step = StepRows(
            ids.view(n, t), starts, rows, pads, lengths, exited, shape.columns, shape.all_rows
        )
        running = n if shape.runs else 0
        hidden = None if shape.first == 0 else example.new_zeros(running, example.shape[1])
        exited_hidden = example.new_zeros(m, example.shape[1]) if m else None
        return cls(shape, numbers, step, hidden, exited_hidden, layers)

    def fill(self, state: Any, token_batch: TokenBatch, hidden: Tensor | None) -> None:
        """Write the tokens of ``token_batch`` and their hidden states (N + M, D) into the buffers.

        Rows that the step lacks repeat its last one, which then computes and writes the same twice.
        """
        shape, rows = self.shape, state.rows
        width, lengths, ids = shape.tokens, token_batch.lengths, token_batch.ids.tolist()
        begins = [0, *accumulate(lengths)]
        given = len(lengths)
        order = [*range(given), *[given - 1] * (shape.rows - given)]
        padded: list[int] = []
        last: list[int] = []
        others: list[int] = []
        slots: list[int] = []
        for place, row in enumerate(order):
            length, begin = lengths[row], begins[row]
            padded += [*ids[row][:length], *[0] * (width - length)]
            exited = length - shape.runs
            others += range(begin, begin + exited)
            slots += range(place * width, place * width + exited)
            last += [begin + length - 1] * shape.runs
        if slots:
            missing = shape.exited - len(slots)
            slots, others = slots + slots[-1:] * missing, others + others[-1:] * missing
        starts = rows.starts(token_batch)
        each = [
            (starts[row], token_batch.rows[row], rows.pads[token_batch.rows[row]], lengths[row])
            for row in order
        ]
        numbers = [*padded, *(one for column in zip(*each, strict=True) for one in column), *slots]
        self.numbers.copy_(torch.tensor(numbers))
        if self.hidden is not None:
            assert hidden is not None
            if not others and len(last) == hidden.shape[0]:
                self.hidden.copy_(hidden)
            else:
                index = torch.tensor([*last, *others], device=hidden.device)
                running, exited_hidden = hidden[index].split([len(last), len(others)])
                self.hidden.copy_(running)
                if self.exited_hidden is not None:
                    self.exited_hidden.copy_(exited_hidden)


class RecordedSteps:
    """Runs a decoder's steps by shape, and records the shapes that repeat.

    Args:
        decoder: whose layers are all ``recordable``.
        records: whether to record; if not, every step runs as it is, which needs no GPU.

    Attributes:
        graphs: recorded so far.
        failed: whether a step could not be recorded: from then on all run as they are.
    """

    def __init__(self, decoder: Any, *, records: bool = True) -> None:
        self._decoder, self._records = decoder, records
        self.failed = False
        self.graphs = 0
        self._stream: Any = None

    def run(
        self,
        state: Any,
        token_batch: TokenBatch,
        layers: range,
        hidden: Tensor | None,
        skipped_state: str,
        running: int | None,
    ) -> Tensor | None:
        """(N, D) after ``layers``, see ``Decoder.replay``; ``None`` where no step is such."""
        if self.failed or not layers or token_batch.prefill:
            return None
        one = max(token_batch.lengths) == 1 and running != 0
        if not one and (running is None or skipped_state == RECOMPUTE or layers.start == 0):
            return None
        if not one and is_outside(skipped_state):
            return None  # its code may do anything, and would see the slots that repeat
        if state.drafts() or torch.is_autocast_enabled(self._decoder.device.type):
            return None  # autocast keeps converted weights, and not as long as a recording
        shape = self._shape(state, token_batch, layers, skipped_state, runs=running != 0)
        known = state.recorded.get(shape)
        if known is None:
            if len(state.recorded) >= MOST_RECORDED:
                return None
            if hidden is None:
                hidden = self._decoder.example
            touched = self._decoder.touched(layers)
            known = state.recorded[shape] = _Recorded.empty(shape, hidden, touched)
        known.fill(state, token_batch, hidden)
        output = self._forward(state, known)[: len(token_batch.rows)]
        state.rows.end(token_batch)
        self._count(state, token_batch, layers, skipped_state, runs=shape.runs)
        return output

    def _shape(
        self, state: Any, token_batch: TokenBatch, layers: range, skipped_state: str, *, runs: bool
    ) -> StepShape:
        lengths = token_batch.lengths
        starts = state.rows.starts(token_batch)
        tokens = max(_power_of_two(max(lengths)), 1 if runs else 2)  # 1: each row runs one token
        columns = max(starts) + tokens
        all_rows = state.rows.covers(token_batch)
        return StepShape(
            layers.start,
            layers.stop,
            len(token_batch.rows) if all_rows else _power_of_two(len(token_batch.rows)),
            tokens,
            -(-columns // _LARGE) * _LARGE
            if columns > _LARGE
            else max(_SMALLEST, _power_of_two(columns)),
            all_rows,
            runs,
            skipped_state,
        )

    def _forward(self, state: Any, known: _Recorded) -> Tensor:
        """(N, D): run as it is at the first use, recorded at the second, replayed from then on."""
        if not self._records or not known.used:
            known.used = True
            return self._body(state, known)
        addresses = state.addresses(known.layers)
        if known.graph is None or known.addresses != addresses:
            if not self._decoder.recordable:  # a hook was added: a replay would not call it
                return self._body(state, known)
            try:
                self._record(state, known)
            except RuntimeError as error:
                self.failed = True
                line = str(error).strip().splitlines()
                _log.warning(
                    "decoding steps are not recorded as CUDA graphs, and take longer: %s",
                    line[0] if line else type(error).__name__,
                )
                return self._body(state, known)
            known.addresses = addresses
        known.graph.replay()
        assert known.output is not None
        return known.output.clone()

    def _record(self, state: Any, known: _Recorded) -> None:
        known.graph, known.output = None, None
        graphs = [one.graph for one in state.recorded.values() if one.graph is not None]
        pool = graphs[0].pool() if graphs else None  # memory of a state's graphs dies with them
        graph, device = torch.cuda.CUDAGraph(), self._decoder.device
        with _no_collection(), torch.cuda.device(device):  # which need not be the current one
            self._stream = self._stream or torch.cuda.Stream(device)
            with recording(graph, pool=pool, stream=self._stream):
                output = self._body(state, known)
        known.graph, known.output = graph, output
        self.graphs += 1

    def _body(self, state: Any, known: _Recorded) -> Tensor:
        decoder, shape = self._decoder, known.shape
        kinds = decoder.kinds
        run = StepPass(
            *(known.step, known.exited_hidden, state, shape.skipped_state, kinds), runs=shape.runs
        )
        hidden = decoder.embed(run) if known.hidden is None else known.hidden
        for layer in range(shape.first, shape.last):
            hidden = decoder.layer(layer, hidden, run)
        run.contexts = []  # as ``Decoder.end``
        return hidden

    def _count(
        self, state: Any, token_batch: TokenBatch, layers: range, skipped_state: str, *, runs: bool
    ) -> None:
        """Count the tokens in states that count their own."""
        for index in layers:
            counted = getattr(state.layers[index], "count", None)
            if counted is not None:
                alone = self._decoder.layers[index].kind.shorter(skipped_state)
                one_each = (int(runs),) * len(token_batch.rows)
                counted(token_batch.rows, one_each if alone else token_batch.lengths)


@contextmanager
def recording(graph: Any, *, pool: Any, stream: Any) -> Iterator[None]:
    """Record in ``graph`` what the body runs on the current device.

    As ``torch.cuda.graph``, which also empties the caches of the allocators before every recording:
    with hundreds of shapes that takes longer than the steps.
    """
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        graph.capture_begin(*(() if pool is None else (pool,)))
        try:
            yield
        finally:
            graph.capture_end()


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected: a graph that is deleted while another is recorded spoils it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least ``count``, which is at least 1."""
    return 1 << (count - 1).bit_length()


def recorded_steps(decoder: Any) -> RecordedSteps | None:
    """Recorded steps of ``decoder``; ``None`` without a GPU, or where a layer is not recordable."""
    if decoder.device.type != "cuda" or not decoder.recordable:
        return None
    return RecordedSteps(decoder)
