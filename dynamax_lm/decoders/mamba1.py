"""Mamba-1 layers, over transformers' own modules.

B, C and dt follow from the convolution's output, so the state's inputs are x alone. The state is
kept as (S, I): the wide dimension is the inner one, where step sizes are not broadcast.

Glossary: N token slots, B rows, T tokens, D width, I channels of the convolution and of the output,
K its width, S SSM state size, R width of the projection that dt follows from (Mamba, arXiv
2312.00752).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.cpu.products import project_first, project_parted
from dynamax_lm.decoders.recurrent_layer import Inputs, RecurrentKind, RecurrentLayer
from dynamax_lm.decoders.recurrent_state import Recurrence, Rows
from dynamax_lm.decoders.state_space import StateSpace

_FEW = 8
_CHUNK, _TOGETHER = 16, 64
"""Most tokens of a row, and of all rows, whose (B, T, S, I) decays are computed at once, so that a
processor's cache has room for them."""


class Mamba1Layer(RecurrentLayer):
    """A block with a Mamba-1 mixer, such as a ``MambaBlock``."""

    def __init__(self, block: Any, kind: RecurrentKind, arithmetic: Arithmetic) -> None:
        super().__init__(block, kind, arithmetic)
        mixer = self._mixer
        taps = mixer.conv1d.weight.detach()[:, 0].t().contiguous()
        decay = -torch.exp(mixer.A_log.detach().float())  # (I, S)
        self._few = _FEW
        self.space = StateSpace(mixer, decay, taps, (0.0, float("inf")))
        # exp2 takes half of exp's time on a CPU.
        self._rates = (decay.t() / math.log(2)).contiguous()  # (S, I)
        self._selected = mixer.time_step_rank + mixer.ssm_state_size

    def linears(self) -> Iterator[LinearPlace]:
        """``in_proj`` and ``x_proj``, of which frozen slots need the first columns, and others."""
        yield LinearPlace(self._mixer, "in_proj", cut=self._mixer.intermediate_size)
        yield LinearPlace(self._mixer, "x_proj", cut=self._selected)
        yield LinearPlace(self._mixer, "out_proj")
        yield from self._block.linears()

    def new_state(self, batch: int) -> Recurrence:
        """Zeros."""
        mixer = self._mixer
        weight = mixer.conv1d.weight
        return Recurrence(
            [0] * batch,
            weight.new_zeros(batch, mixer.conv_kernel_size, mixer.intermediate_size),
            torch.zeros(batch, mixer.ssm_state_size, mixer.intermediate_size, device=weight.device),
        )

    def _project(self, normed: Tensor) -> tuple[Tensor, Inputs]:
        mixer, project = self._mixer, self._arithmetic.project
        x, gate = project_parted(mixer.in_proj, normed, mixer.intermediate_size, project)
        return gate, Inputs(x, x.new_zeros(x.shape[0], 1))

    def state_inputs(self, normed: Tensor) -> Inputs:
        """X of the mixer's input (M, D); no gate."""
        x = project_first(
            self._mixer.in_proj, normed, self._mixer.intermediate_size, self._arithmetic.product_of
        )
        return Inputs(x, x.new_zeros(x.shape[0], 1))

    def _gated(self, scanned: Tensor, gate: Tensor) -> Tensor:
        return scanned * F.silu(gate)

    def _select(self, x: Tensor, *, output: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of the convolution's output (N, I): raw dt (N, I), B (N, S), and C (N, S) or ``None``."""
        mixer, size = self._mixer, self._mixer.ssm_state_size
        last: Tensor | None = None
        if output:
            first, last = project_parted(mixer.x_proj, x, self._selected, self._arithmetic.project)
        else:
            first = project_first(mixer.x_proj, x, self._selected, self._arithmetic.product_of)
        step, b = first.split([mixer.time_step_rank, size], dim=-1)
        if hasattr(mixer, "dt_layernorm"):
            step, b = mixer.dt_layernorm(step), mixer.b_layernorm(b)
            last = last if last is None else mixer.c_layernorm(last)
        return F.linear(step, mixer.dt_proj.weight), b, last

    def _steps(self, raw: Tensor, dt: Tensor) -> Tensor:
        """(..., I) step sizes, 0 where ``dt`` (..., 1) is -inf."""
        wide = raw.float() + self._mixer.dt_proj.bias.float() + dt.float()
        return F.softplus(wide)

    def _advance(
        self, convolved: Tensor, dt: Tensor, ssm: Tensor, rows: Rows | None, *, output: bool
    ) -> Tensor:
        raw, b, c = self._select(convolved, output=output)
        steps, x = self._steps(raw, dt), convolved.float()
        some = ssm if rows is None else ssm[rows]
        some.mul_((steps[:, None] * self._rates).exp2_())
        some.addcmul_((steps * x)[:, None], b.float()[..., None])
        if rows is not None:
            ssm[rows] = some
        if c is None:
            return convolved
        read: Tensor = torch.bmm(c.float()[:, None], some)[:, 0]
        return torch.addcmul(read, x, self._mixer.D.float())

    def _scan_state(
        self, convolved: Tensor, dt: Tensor, initial: Tensor | None, *, output: bool
    ) -> tuple[Tensor, Tensor]:
        shape = convolved.shape[:2]
        raw, b, c = self._select(convolved.flatten(0, 1), output=output)
        raw, b = raw.unflatten(0, shape), b.unflatten(0, shape)
        steps, x = self._steps(raw, dt), convolved.float()
        added, b = steps * x, b.float()
        state = x.new_zeros(shape[0], *self._rates.shape) if initial is None else initial.float()
        scanned = x * self._mixer.D.float()
        size = min(shape[1], max(1, min(_CHUNK, _TOGETHER // shape[0])))
        decays, states = (x.new_empty(shape[0], size, *self._rates.shape) for _ in range(2))
        for start in range(0, shape[1], size):
            part = slice(start, start + size)
            count = min(size, shape[1] - start)
            decay, after = decays[:, :count], states[:, :count]  # written in place: (B, T', S, I)
            torch.mul(steps[:, part, None], self._rates, out=decay).exp2_()
            torch.mul(added[:, part, None], b[:, part, :, None], out=after)
            for following, kept in zip(after.unbind(1), decay.unbind(1), strict=True):
                state = following.addcmul_(state, kept)
            state = state.clone()
            if c is not None:
                read = c.unflatten(0, shape)[:, part, None].float()
                scanned[:, part] += (read @ after)[:, :, 0]
        return scanned, state
