"""Mamba-2's convolution and state space through transformers' functions, and the choice of kernels.

The functions are those of ``mamba-ssm`` and ``causal-conv1d`` where these are installed: the
default on a GPU with them, and the reference of tests and benchmark.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.mamba2.modeling_mamba2 import (
    causal_conv1d_fn,
    causal_conv1d_update,
    mamba2_chunk_scan,
    mamba2_selective_state_update,
)
from transformers.utils.import_utils import is_causal_conv1d_available, is_mamba_2_ssm_available

from dynamax_lm.decoders.ssd import PLAIN
from dynamax_lm.decoders.state_space import Kernels, StateSpace

_STRIDES = 8
"""causal-conv1d refuses inputs, channels last, whose other strides are no multiples of this."""


class Trusted(Kernels):
    """Transformers' functions, with the kernels that they select."""

    few = 8

    def scan(
        self,
        space: StateSpace,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor | None,
        initial: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        c = b if c is None else c  # their function always computes an output
        own = int(space.mixer.chunk_size)
        limits, bias, softplus = space.limits, space.mixer.dt_bias, True
        if limits[0] > 0.0:  # would give empty slots, whose dt is -inf, a step
            dt, limits, bias, softplus = space.steps(dt), (0.0, float("inf")), None, False
        if initial is not None:  # no longer than a short continuation needs
            own = min(own, 1 << (x.shape[1] - 1).bit_length())
        output, final = mamba2_chunk_scan(
            x,
            dt,
            space.decay,
            b,
            c,
            chunk_size=own,
            D=space.mixer.D,
            z=None,
            return_final_states=True,
            dt_bias=bias,
            dt_softplus=softplus,
            initial_states=initial,
            dt_limit=limits,
        )
        return output, final.contiguous()

    def step(
        self,
        space: StateSpace,
        state: Tensor,
        rows: list[int] | Tensor | None,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor | None,
    ) -> Tensor:
        if (
            c is None
        ):  # their function always computes the output, which a skipped layer does not need
            return PLAIN.step(space, state, rows, x, dt, b, c)
        bias: Tensor | None = space.mixer.dt_bias
        # The scan clamps dt and this step does not: clamped here, decoding equals scoring.
        softplus = space.unlimited
        if not softplus:
            dt, bias = space.steps(dt).to(dt.dtype), None
        wide = (-1, space.mixer.head_dim)
        some = state if rows is None else state[rows]
        output: Tensor = mamba2_selective_state_update(
            some,
            x,
            dt[..., None].expand(-1, *wide),
            space.decay[:, None, None].expand(*wide, space.mixer.ssm_state_size),
            b,
            c,
            space.mixer.D[:, None].expand(*wide),
            z=None,
            dt_bias=None if bias is None else bias[:, None].expand(*wide),
            dt_softplus=softplus,
        )
        if rows is not None:
            state[rows] = some
        return output

    def convolve(self, space: StateSpace, seen: Tensor, tokens: int) -> Tensor:
        channels = seen.transpose(1, 2)
        if any(stride % _STRIDES for stride in seen.stride()[:2]):
            channels = channels.contiguous()  # the layout without such a rule
        convolved: Tensor = causal_conv1d_fn(
            channels,
            space.mixer.conv1d.weight.squeeze(1),
            space.mixer.conv1d.bias,
            activation=space.mixer.activation,
        )
        return convolved[:, :, -tokens:].transpose(1, 2)

    def convolve_step(self, space: StateSpace, window: Tensor, xbc: Tensor) -> Tensor:
        turned = window.transpose(1, 2).contiguous()
        output: Tensor = causal_conv1d_update(
            xbc[:, :, None],
            turned,
            space.mixer.conv1d.weight.squeeze(1),
            space.mixer.conv1d.bias,
            activation=space.mixer.activation,
        )
        window.copy_(turned.transpose(1, 2))
        return output[:, :, 0]


TRUSTED: Kernels = Trusted()


def best_kernels(device: torch.device) -> Kernels:
    """``TRUSTED`` on a GPU where mamba-ssm and causal-conv1d are installed, else ``PLAIN``."""
    fused = device.type == "cuda" and is_mamba_2_ssm_available() and is_causal_conv1d_available()
    return TRUSTED if fused else PLAIN
