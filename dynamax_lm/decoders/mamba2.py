"""Mamba-2 decoders as a layer stack, over transformers' own modules.

Owns the convolution windows and SSM states. It does not know why a token stops running, nor how a
window or a state advances: ``ssd`` does.

Glossary: C channels of the convolution (x, B and C together), K its width, H heads, P head width,
G groups, S SSM state size. dt is the step size of a head (Mamba-2, arXiv 2405.21060).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.core.pending import Waiting
from dynamax_lm.core.stack import Chunk, Run
from dynamax_lm.decoders.cpu.chosen_products import (
    NOTHING_CHOSEN,
    ChosenProducts,
    Slot,
    choose_products,
)
from dynamax_lm.decoders.cpu.norms import normalise, normalise_trusted
from dynamax_lm.decoders.cpu.products import project_parted, project_rest, project_trusted
from dynamax_lm.decoders.ssd import TRUSTED, Kernels, StateSpace, best_kernels


@dataclass
class RecurrentState:
    """What every layer remembers.

    Attributes:
        tokens: per layer, the tokens it has seen in each row.
        conv: per layer (B, K, C), the convolution's last inputs, oldest first.
        ssm: per layer (B, H, P, S), float32.
        waiting: tokens that not every layer has seen yet.
    """

    tokens: list[list[int]]
    conv: list[Tensor]
    ssm: list[Tensor]
    waiting: Waiting = field(default_factory=Waiting)

    def seen(self, layer: int) -> list[int]:
        """Tokens that ``layer`` has seen, per row."""
        return list(self.tokens[layer])


class _Inputs(NamedTuple):
    """What the state reads of some tokens: ``xbc`` (N, C) and ``dt`` (N, H), both raw."""

    xbc: Tensor
    dt: Tensor


class RecurrentRun(Run):
    """A pass over recurrent states.

    Attributes:
        shorter: whether a layer sees only the tokens that reach it.
        all_rows: whether the chunk has every row of the state, in order.
        state_rows: (B,) the state's rows.
        lengths: (B,) real tokens of each row.
        mask: (B, T, 1), 0 at the pads of a prefill, or ``None`` without pads.
    """

    def __init__(self, chunk: Chunk, state: RecurrentState, skipped_state: str) -> None:
        super().__init__(chunk)
        device = chunk.ids.device
        self.state = state
        self.skipped_state = skipped_state
        self.shorter = skipped_state in {"freeze", "recompute"}
        self.all_rows = chunk.rows == tuple(range(len(state.tokens[0])))
        self.state_rows = torch.tensor(chunk.rows, device=device)
        self.lengths = torch.tensor(chunk.lengths, device=device)
        self.mask: Tensor | None = None
        if chunk.prefill and not chunk.even:
            columns = torch.arange(chunk.width, device=device)
            self.mask = (columns >= chunk.width - self.lengths[:, None])[:, :, None]
        self.changed()

    def changed(self) -> None:
        self._places: tuple[Tensor, Tensor, int] | None = None
        self._seen: list[int] | None = None
        self._step_rows: tuple[list[int] | None, list[int]] | None = None

    def seen(self) -> list[int]:
        """Tokens that a layer now sees of each row of the chunk."""
        if self._seen is None:
            if self.left and self.shorter:
                self._seen = self._counts(self.cells).tolist()
            else:
                self._seen = list(self.chunk.lengths)
        return self._seen

    def step_rows(self) -> tuple[list[int] | None, list[int]]:
        """Where a layer sees one token a row: the state's rows that run, and those that left.

        ``None`` stands for all rows, in order.
        """
        if self._step_rows is None:
            rows, width = self.chunk.rows, self.chunk.width
            running = None
            if not (self.whole and self.all_rows):
                running = [rows[cell // width] for cell in self.cells.tolist()]
            self._step_rows = running, [rows[cell // width] for cell in self.frozen.tolist()]
        return self._step_rows

    def places(self) -> tuple[Tensor, Tensor, int]:
        """Where the running cells stand in what a layer sees.

        Returns:
            (N,) places in the (B, T') rectangle; (B,) tokens of each row; T'. Under ``freeze`` and
            ``recompute`` a layer sees the sequence of the tokens that reached it, for good or so
            far; else the whole chunk.
        """
        if self._places is None:
            width = self.chunk.width
            self._places = self.cells, self.lengths, width
            if self.left and self.shorter:
                counts = self._counts(self.cells)
                first = counts.cumsum(0) - counts
                row = self.cells // width
                rank = torch.arange(self.cells.shape[0], device=row.device) - first[row]
                shorter = int(counts.max())
                self._places = row * shorter + rank, counts, shorter
        return self._places

    def _counts(self, cells: Tensor) -> Tensor:
        """(B,) how many of ``cells`` each row has."""
        return torch.bincount(cells // self.chunk.width, minlength=len(self.chunk.rows))


class Mamba2Stack:
    """Layers of a ``Mamba2ForCausalLM``, one at a time.

    Args:
        model: the loaded model, in evaluation mode.
        kernels: what advances windows and states; the best for the model's device if left out.
    """

    skipped_states = frozenset({"propagate", "freeze", "recompute"})

    def __init__(self, model: Any, kernels: Kernels | None = None) -> None:
        self.decoder = model.backbone
        self._model = model
        self.n_layers: int = model.config.num_hidden_layers
        self.vocab_size: int = model.config.vocab_size
        self.kernels = kernels or best_kernels(self.device)
        trusted = self.kernels is TRUSTED
        self.products: ChosenProducts = NOTHING_CHOSEN
        self._project = project_trusted
        self._normalise = normalise_trusted if trusted else normalise
        self._spaces = [StateSpace.of(block.mixer) for block in self.decoder.layers]
        self._head_dtype: torch.dtype = model.lm_head.weight.dtype

    def choose_products(self, **options: Any) -> None:
        """Measure which products are fastest here, and arrange the weights for them, for good.

        The model stays usable. A stack of trusted kernels stays as it is.

        Args:
            **options: see ``chosen.choose_products``.
        """
        if self.kernels is TRUSTED:
            return
        self.products = choose_products(list(self._slots()), **options)
        self._project = self.products.project

    def _slots(self) -> Iterator[Slot]:
        for block in self.decoder.layers:
            yield Slot(block.mixer, "in_proj", cut=block.mixer.intermediate_size)
            yield Slot(block.mixer, "out_proj")
        tied = self.lm_head.weight is self.decoder.embeddings.weight
        yield Slot(self._model, "lm_head", stays=tied)

    @property
    def lm_head(self) -> Any:
        """The vocabulary projection."""
        return self._model.lm_head

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        device: torch.device = self.decoder.embeddings.weight.device
        return device

    def new_state(self, batch: int) -> RecurrentState:
        conv, ssm = [], []
        for block in self.decoder.layers:
            mixer = block.mixer
            weight = mixer.conv1d.weight
            conv.append(weight.new_zeros(batch, mixer.conv_kernel_size, mixer.conv_dim))
            shape = (batch, mixer.num_heads, mixer.head_dim, mixer.ssm_state_size)
            ssm.append(torch.zeros(shape, device=weight.device))
        return RecurrentState([[0] * batch for _ in range(self.n_layers)], conv, ssm)

    def begin(self, state: RecurrentState, chunk: Chunk, skipped_state: str) -> RecurrentRun:
        return RecurrentRun(chunk, state, skipped_state)

    def embed(self, run: Run) -> Tensor:
        embedded: Tensor = self.decoder.embeddings(run.chunk.ids.flatten()[run.cells])
        return embedded

    def layer(self, index: int, hidden: Tensor, run: Run) -> Tensor:
        assert isinstance(run, RecurrentRun)
        block = self.decoder.layers[index]
        mixer = block.mixer
        self._count(index, run)
        frozen: _Inputs | None = None
        if run.left and run.skipped_state == "propagate":
            frozen = self._state_inputs(block, run)
        if not hidden.shape[0] and frozen is None:
            return hidden
        hidden = hidden.to(block.norm.weight.device)
        normed = self._normalise(block.norm, hidden.to(dtype=block.norm.weight.dtype))
        if run.mask is not None:
            normed = self._masked(normed, run)
        gate, inputs = project_parted(mixer.in_proj, normed, mixer.intermediate_size, self._project)
        xbc, dt = inputs.split([mixer.conv_dim, mixer.num_heads], dim=-1)
        if run.mask is not None and mixer.in_proj.bias is not None:
            xbc = self._masked(xbc, run)  # a bias would leak from the pads into the convolution
        running = _Inputs(xbc, dt)
        if not run.chunk.prefill and run.places()[2] == 1:
            scanned = self._step(index, mixer, running, frozen, run)
        else:
            scanned = self._scan(index, mixer, running, frozen, run)
        if not hidden.shape[0]:
            return hidden
        residual = hidden.to(torch.float32) if block.residual_in_fp32 else hidden
        mixed: Tensor = residual + self._project(
            mixer.out_proj, mixer.norm(scanned, gate).to(normed.dtype)
        )
        return mixed

    def end(self, state: RecurrentState, run: Run) -> None:
        """Nothing to close: every layer advanced its own state."""

    def unembed(self, hidden: Tensor) -> Tensor:
        norm = self.decoder.norm_f
        normed = self._normalise(norm, hidden.to(norm.weight.device))
        return self._project(self.lm_head, normed.to(self._head_dtype)).float()

    def mark(self, state: RecurrentState) -> RecurrentState:
        return RecurrentState(
            [list(tokens) for tokens in state.tokens],
            [conv.clone() for conv in state.conv],
            [ssm.clone() for ssm in state.ssm],
            state.waiting.copy(),
        )

    def rewind(self, state: RecurrentState, mark: RecurrentState) -> None:
        fresh = self.mark(mark)
        state.tokens, state.conv, state.ssm = fresh.tokens, fresh.conv, fresh.ssm
        state.waiting = fresh.waiting

    def take(self, state: RecurrentState, rows: Sequence[int]) -> RecurrentState:
        index = torch.tensor(rows, dtype=torch.long)
        return RecurrentState(
            [[tokens[row] for row in rows] for tokens in state.tokens],
            [conv[index.to(conv.device)] for conv in state.conv],
            [ssm[index.to(ssm.device)] for ssm in state.ssm],
            state.waiting.take(rows),
        )

    def _count(self, index: int, run: RecurrentRun) -> None:
        """Note how many tokens this layer has now seen."""
        tokens = run.state.tokens[index]
        for row, count in zip(run.chunk.rows, run.seen(), strict=True):
            tokens[row] += count

    @staticmethod
    def _masked(flat: Tensor, run: RecurrentRun) -> Tensor:
        assert run.mask is not None
        shape = run.chunk.ids.shape
        masked: Tensor = flat.unflatten(0, shape) * run.mask.to(flat.device)
        return masked.to(flat.dtype).flatten(0, 1)

    def _state_inputs(self, block: Any, run: RecurrentRun) -> _Inputs:
        """x, B, C and dt of the cells that left, from their frozen hidden states; no gate."""
        assert run.frozen_hidden is not None
        mixer = block.mixer
        weight = block.norm.weight
        normed = self._normalise(block.norm, run.frozen_hidden.to(weight.device, weight.dtype))
        inputs = project_rest(mixer.in_proj, normed, mixer.intermediate_size)
        return _Inputs(*inputs.split([mixer.conv_dim, mixer.num_heads], dim=-1))

    def _step(
        self, index: int, mixer: Any, running: _Inputs, frozen: _Inputs | None, run: RecurrentRun
    ) -> Tensor:
        """(N, H * P) one token a row: the recurrence. Frozen rows advance without an output."""
        alive, gone = run.step_rows()
        if frozen is not None:
            self._advance(index, mixer, frozen, gone, run, output=False)
        if not running.xbc.shape[0]:
            return running.xbc.new_empty(0, mixer.intermediate_size)
        return self._advance(index, mixer, running, alive, run, output=True).flatten(1)

    def _advance(
        self,
        index: int,
        mixer: Any,
        inputs: _Inputs,
        rows: list[int] | None,
        run: RecurrentRun,
        *,
        output: bool,
    ) -> Tensor:
        """(N, H, P) one token for each of the state's ``rows``."""
        space, window = self._spaces[index], run.state.conv[index]
        some = window if rows is None else window[rows]
        convolved = self.kernels.convolve_step(space, some, inputs.xbc)
        if rows is not None:
            window[rows] = some
        x, b, c = self._split(mixer, convolved)
        return self.kernels.step(
            space, run.state.ssm[index], rows, x, inputs.dt, b, c if output else None
        )

    def _scan(
        self, index: int, mixer: Any, running: _Inputs, frozen: _Inputs | None, run: RecurrentRun
    ) -> Tensor:
        """(N, H * P) many tokens a row: the chunked form over a rectangle of tokens."""
        batch = len(run.chunk.rows)
        device = running.xbc.device
        places, lengths, width = run.places()
        places = places.to(device)
        if run.whole:
            xbc, dt = running.xbc, running.dt
        else:
            xbc = running.xbc.new_zeros(batch * width, mixer.conv_dim)
            # softplus(-inf) = 0: an empty cell neither decays the state nor adds to it.
            dt = running.dt.new_full((batch * width, mixer.num_heads), -torch.inf)
            xbc[places], dt[places] = running.xbc, running.dt
            if frozen is not None:
                gone = run.frozen.to(device)
                xbc[gone], dt[gone] = frozen.xbc.to(xbc.dtype), frozen.dt.to(dt.dtype)
        convolved = self._convolve(index, xbc.unflatten(0, (batch, width)), lengths, run)
        x, b, c = self._split(mixer, convolved)
        rows = None if run.all_rows else run.state_rows.to(device)
        states = run.state.ssm
        initial = None
        if not run.chunk.prefill:
            initial = states[index] if rows is None else states[index][rows]
        output, final = self.kernels.scan(
            self._spaces[index], x, dt.unflatten(0, (batch, width)), b, c, initial
        )
        if rows is None:
            states[index] = final.to(states[index].dtype)
        else:
            states[index][rows] = final.to(states[index].dtype)
        flat: Tensor = output.reshape(batch * width, -1)
        return flat if run.whole else flat[places]

    @staticmethod
    def _split(mixer: Any, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., C) into x (..., H, P), B and C (..., G, S)."""
        groups = mixer.n_groups * mixer.ssm_state_size
        x, b, c = xbc.split([mixer.intermediate_size, groups, groups], dim=-1)
        return (
            x.unflatten(-1, (mixer.num_heads, mixer.head_dim)),
            b.unflatten(-1, (mixer.n_groups, mixer.ssm_state_size)),
            c.unflatten(-1, (mixer.n_groups, mixer.ssm_state_size)),
        )

    def _convolve(self, index: int, xbc: Tensor, lengths: Tensor, run: RecurrentRun) -> Tensor:
        """(B, T, C) the convolution's output for (B, T, C) inputs; its window advances.

        ``lengths`` (B,): real tokens of each row, at the left of a row (at its right in a prefill).
        """
        space, window = self._spaces[index], run.state.conv[index]
        width, kernel = xbc.shape[1], window.shape[1]
        rows = run.state_rows.to(xbc.device)
        if run.chunk.prefill:
            seen = xbc
            last = F.pad(xbc, (0, 0, max(kernel - width, 0), 0))[:, -kernel:]
        else:
            seen = torch.cat([window[rows].to(xbc.dtype), xbc], dim=1)
            ends = lengths.to(xbc.device)[:, None] + torch.arange(kernel, device=xbc.device)
            last = seen.gather(1, ends[:, :, None].expand(-1, -1, seen.shape[2]))  # (B, K, C)
        window[rows] = last.to(window.dtype)
        convolved = self.kernels.convolve(space, seen, width)
        if run.mask is not None:
            convolved = (convolved * run.mask.to(convolved.device)).to(convolved.dtype)
        return convolved
