"""Mamba-2 decoders as a layer stack, over transformers' own modules and kernels.

Owns the convolution windows and SSM states. It does not know why a token stops running.
transformers picks up the kernels of ``mamba-ssm`` and ``causal-conv1d`` where they import, and its
torch functions otherwise; both are called here under the same names.

Glossary: C channels of the convolution (x, B and C together), K its width, H heads, P head width,
G groups, S SSM state size. dt is the step size of a head (Mamba-2, arXiv 2405.21060, section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.models.mamba2.modeling_mamba2 import (
    causal_conv1d_fn,
    causal_conv1d_update,
    mamba2_chunk_scan,
    mamba2_selective_state_update,
)

from dynamax_lm.models.stack import Chunk, Run


@dataclass
class RecurrentState:
    """What every layer remembers.

    Attributes:
        tokens: per layer, the tokens it has seen in each row.
        conv: per layer (B, C, K), the convolution's last inputs.
        ssm: per layer (B, H, P, S), float32.
    """

    tokens: list[list[int]]
    conv: list[Tensor]
    ssm: list[Tensor]

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
        state_rows: (B,) the state's rows.
        mask: (B, T, 1), 0 at the pads of a prefill, or ``None`` without pads.
    """

    def __init__(self, chunk: Chunk, state: RecurrentState, skipped_state: str) -> None:
        super().__init__(chunk)
        self.state = state
        self.skipped_state = skipped_state
        self.state_rows = torch.tensor(chunk.rows, device=chunk.ids.device)
        self.all_rows = chunk.rows == tuple(range(len(state.tokens[0])))
        self.mask: Tensor | None = None
        if chunk.prefill and not chunk.even:
            lengths = torch.tensor(chunk.lengths, device=chunk.ids.device)
            columns = torch.arange(chunk.width, device=chunk.ids.device)
            self.mask = (columns >= chunk.width - lengths[:, None])[:, :, None]

    def counts(self, cells: Tensor) -> Tensor:
        """(B,) how many of ``cells`` each row has."""
        return torch.bincount(cells // self.chunk.width, minlength=len(self.chunk.rows))


class Mamba2Stack:
    """Layers of a ``Mamba2ForCausalLM``, one at a time.

    Args:
        model: the loaded model, in evaluation mode.
    """

    skipped_states = frozenset({"propagate", "freeze"})

    def __init__(self, model: Any) -> None:
        self.decoder = model.backbone
        self.lm_head: Any = model.lm_head
        self.n_layers: int = model.config.num_hidden_layers
        self.vocab_size: int = model.config.vocab_size

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
            conv.append(weight.new_zeros(batch, mixer.conv_dim, mixer.conv_kernel_size))
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
        normed = block.norm(hidden.to(dtype=block.norm.weight.dtype))
        if run.mask is not None:
            normed = self._masked(normed, run)
        projected = mixer.in_proj(normed)
        gate, xbc, dt = projected.split(
            [mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], dim=-1
        )
        if run.mask is not None and mixer.in_proj.bias is not None:
            xbc = self._masked(xbc, run)  # a bias would leak from the pads into the convolution
        running = _Inputs(xbc, dt)
        if run.chunk.width == 1 and not run.chunk.prefill:
            scanned = self._step(index, mixer, running, frozen, run)
        else:
            scanned = self._scan(index, mixer, running, frozen, run)
        if not hidden.shape[0]:
            return hidden
        residual = hidden.to(torch.float32) if block.residual_in_fp32 else hidden
        mixed: Tensor = residual + mixer.out_proj(mixer.norm(scanned, gate).to(normed.dtype))
        return mixed

    def end(self, state: RecurrentState, run: Run) -> None:
        """Nothing to close: every layer advanced its own state."""

    def unembed(self, hidden: Tensor) -> Tensor:
        norm = self.decoder.norm_f
        normed = norm(hidden.to(norm.weight.device))
        logits: Tensor = self.lm_head(normed.to(self.lm_head.weight.dtype)).float()
        return logits

    def mark(self, state: RecurrentState) -> RecurrentState:
        return RecurrentState(
            [list(tokens) for tokens in state.tokens],
            [conv.clone() for conv in state.conv],
            [ssm.clone() for ssm in state.ssm],
        )

    def rewind(self, state: RecurrentState, mark: RecurrentState) -> None:
        fresh = self.mark(mark)
        state.tokens, state.conv, state.ssm = fresh.tokens, fresh.conv, fresh.ssm

    def take(self, state: RecurrentState, rows: Sequence[int]) -> RecurrentState:
        index = torch.tensor(rows, dtype=torch.long)
        return RecurrentState(
            [[tokens[row] for row in rows] for tokens in state.tokens],
            [conv[index.to(conv.device)] for conv in state.conv],
            [ssm[index.to(ssm.device)] for ssm in state.ssm],
        )

    def _count(self, index: int, run: RecurrentRun) -> None:
        """Note how many tokens this layer has now seen."""
        tokens = run.state.tokens[index]
        if run.left and run.skipped_state == "freeze":
            new = run.counts(run.cells).tolist()
        else:
            new = list(run.chunk.lengths)
        for row, count in zip(run.chunk.rows, new, strict=True):
            tokens[row] += count

    @staticmethod
    def _masked(flat: Tensor, run: RecurrentRun) -> Tensor:
        assert run.mask is not None
        shape = run.chunk.ids.shape
        masked: Tensor = flat.unflatten(0, shape) * run.mask.to(flat.device)
        return masked.to(flat.dtype).flatten(0, 1)

    @staticmethod
    def _state_inputs(block: Any, run: RecurrentRun) -> _Inputs:
        """x, B, C and dt of the cells that left, from their frozen hidden states; no gate."""
        assert run.frozen_hidden is not None
        mixer = block.mixer
        weight = block.norm.weight
        normed = block.norm(run.frozen_hidden.to(weight.device, weight.dtype))
        skip = mixer.intermediate_size
        if type(mixer.in_proj) is nn.Linear:
            bias = mixer.in_proj.bias
            projected = F.linear(
                normed, mixer.in_proj.weight[skip:], None if bias is None else bias[skip:]
            )
        else:  # a quantised or adapted projection cannot be cut: compute it whole
            projected = mixer.in_proj(normed)[:, skip:]
        return _Inputs(*projected.split([mixer.conv_dim, mixer.num_heads], dim=-1))

    def _step(
        self, index: int, mixer: Any, running: _Inputs, frozen: _Inputs | None, run: RecurrentRun
    ) -> Tensor:
        """(N, H * P) one token a row: the recurrence. Frozen rows advance without an output."""
        rows = run.state_rows.to(running.xbc.device)
        if frozen is not None:
            there = rows[run.frozen.to(rows.device)]
            x, b, _ = self._split(mixer, self._convolve(index, mixer, frozen.xbc, there, run))
            self._advance(index, mixer, x, b, frozen.dt, there, run)
        if not running.xbc.shape[0]:
            return running.xbc.new_empty(0, mixer.intermediate_size)
        here = None if run.whole and run.all_rows else rows[run.cells.to(rows.device)]
        x, b, c = self._split(mixer, self._convolve(index, mixer, running.xbc, here, run))
        ssm = run.state.ssm[index]
        state = ssm if here is None else ssm[here]
        dt, bias, softplus = self._step_sizes(mixer, running.dt)
        wide = (-1, mixer.head_dim)
        output: Tensor = mamba2_selective_state_update(
            state,
            x,
            dt[..., None].expand(-1, *wide),
            self._decay(mixer)[:, None, None].expand(*wide, mixer.ssm_state_size),
            b,
            c,
            mixer.D[:, None].expand(*wide),
            z=None,
            dt_bias=None if bias is None else bias[:, None].expand(*wide),
            dt_softplus=softplus,
        )
        if here is not None:
            ssm[here] = state
        return output.flatten(1)

    def _scan(
        self, index: int, mixer: Any, running: _Inputs, frozen: _Inputs | None, run: RecurrentRun
    ) -> Tensor:
        """(N, H * P) many tokens a row: the chunked form over a rectangle of tokens."""
        batch, width = run.chunk.ids.shape
        rows = run.state_rows.to(running.xbc.device)
        cells = run.cells.to(rows.device)
        if run.left and frozen is None:  # freeze: the layer sees the shorter sequence
            lengths = run.counts(cells)
            width = int(lengths.max())
            first = lengths.cumsum(0) - lengths
            row = cells // run.chunk.width
            rank = torch.arange(cells.shape[0], device=cells.device) - first[row]
            cells = row * width + rank
        else:
            lengths = torch.tensor(run.chunk.lengths, device=cells.device)
        if run.whole:
            xbc, dt = running.xbc, running.dt
        else:
            xbc = running.xbc.new_zeros(batch * width, mixer.conv_dim)
            # softplus(-inf) = 0: an empty cell neither decays the state nor adds to it.
            dt = running.dt.new_full((batch * width, mixer.num_heads), -torch.inf)
            xbc[cells], dt[cells] = running.xbc, running.dt
            if frozen is not None:
                gone = run.frozen.to(rows.device)
                xbc[gone], dt[gone] = frozen.xbc.to(xbc.dtype), frozen.dt.to(dt.dtype)
        convolved = self._convolve_many(
            index, mixer, xbc.unflatten(0, (batch, width)), lengths, run
        )
        x, b, c = self._split(mixer, convolved)
        initial = None if run.chunk.prefill else run.state.ssm[index][rows]
        output, final = mamba2_chunk_scan(
            x,
            dt.unflatten(0, (batch, width)),
            self._decay(mixer),
            b,
            c,
            chunk_size=self._scan_length(mixer, width, run),
            D=mixer.D,
            z=None,
            return_final_states=True,
            dt_bias=mixer.dt_bias,
            dt_softplus=True,
            initial_states=initial,
            dt_limit=mixer.time_step_limit,
        )
        run.state.ssm[index][rows] = final.to(run.state.ssm[index].dtype)
        flat: Tensor = output.reshape(batch * width, -1)
        return flat if run.whole else flat[cells]

    @staticmethod
    def _scan_length(mixer: Any, width: int, run: RecurrentRun) -> int:
        """The config's own length for a prefill; no longer than needed for short chunks."""
        own = int(mixer.chunk_size)
        return own if run.chunk.prefill else min(own, 1 << (width - 1).bit_length())

    @staticmethod
    def _decay(mixer: Any) -> Tensor:
        """(H,) A, the negative decay rates."""
        decay: Tensor = -torch.exp(mixer.A_log.float())
        return decay

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

    @staticmethod
    def _step_sizes(mixer: Any, dt: Tensor) -> tuple[Tensor, Tensor | None, bool]:
        """Step sizes with what is left to do to them: (dt, bias, softplus).

        The scan clamps dt to the config's limits and transformers' step does not; where the limits
        bind, the clamp is done here so that decoding equals scoring.
        """
        low, high = mixer.time_step_limit
        if low <= 0.0 and high == float("inf"):
            return dt, mixer.dt_bias, True
        return F.softplus(dt + mixer.dt_bias).clamp(low, high), None, False

    def _convolve(
        self, index: int, mixer: Any, xbc: Tensor, rows: Tensor | None, run: RecurrentRun
    ) -> Tensor:
        """(N, C) the convolution's output for one new token a row; its window advances."""
        window = run.state.conv[index]
        state = window if rows is None else window[rows]
        output: Tensor = causal_conv1d_update(
            xbc[:, :, None],
            state,
            mixer.conv1d.weight.squeeze(1),
            mixer.conv1d.bias,
            activation=mixer.activation,
        )
        if rows is not None:
            window[rows] = state
        return output[:, :, 0]

    def _convolve_many(
        self, index: int, mixer: Any, xbc: Tensor, lengths: Tensor, run: RecurrentRun
    ) -> Tensor:
        """(B, T, C) the convolution's output for (B, T, C) inputs; its window advances.

        ``lengths`` (B,): real tokens of each row, at the left of a row (at its right in a prefill).
        """
        width, kernel = xbc.shape[1], mixer.conv_kernel_size
        rows = run.state_rows.to(xbc.device)
        new = xbc.transpose(1, 2)
        window = run.state.conv[index]
        if run.chunk.prefill:
            seen = new
            window[rows] = F.pad(new, (max(kernel - width, 0), 0))[:, :, -kernel:].to(window.dtype)
        else:
            seen = torch.cat([window[rows].to(new.dtype), new], dim=-1)
            last = lengths[:, None] + torch.arange(kernel, device=xbc.device)  # (B, K)
            index_last = last[:, None, :].expand(-1, seen.shape[1], -1)
            window[rows] = seen.gather(2, index_last).to(window.dtype)
        convolved: Tensor = causal_conv1d_fn(
            seen,
            mixer.conv1d.weight.squeeze(1),
            mixer.conv1d.bias,
            activation=mixer.activation,
        )[:, :, -width:].transpose(1, 2)
        if run.mask is not None:
            convolved = (convolved * run.mask.to(convolved.device)).to(convolved.dtype)
        return convolved

    def _advance(
        self,
        index: int,
        mixer: Any,
        x: Tensor,
        b: Tensor,
        dt: Tensor,
        rows: Tensor,
        run: RecurrentRun,
    ) -> None:
        """The recurrence without its output: state <- state * exp(dt A) + dt x B."""
        low, high = mixer.time_step_limit
        step = F.softplus(dt + mixer.dt_bias).clamp(low, high).float()  # (N, H)
        decay = torch.exp(step * self._decay(mixer))[:, :, None, None]
        b = b.repeat_interleave(mixer.num_heads // mixer.n_groups, dim=1)  # (N, H, S)
        added = (step[..., None] * x.float())[..., None] * b.float()[:, :, None, :]
        ssm = run.state.ssm[index]
        ssm[rows] = ssm[rows] * decay + added
