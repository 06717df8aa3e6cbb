"""A small Mamba-2 mixer without an output projection, the state of Mamba classifiers.

It computes the recurrence step by step, and equally as a scan over many places. A row is a sequence
of tokens of an answer, or of exits along the depth of one token.

Glossary: n rows, T places of the longest row, W width, I = expand * W inner channels, H heads of P
channels, S state size, K width of the convolution, C = I + 2 S its channels (x, B, C of Mamba-2,
arXiv 2405.21060; one group). Everything is float32: heads are small and their sums are long.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

_LONGEST_SCAN = 64


class Memory(NamedTuple):
    """The state of a mixer for each row.

    Attributes:
        window: (n, C, K - 1) the convolution's last inputs.
        ssm: (n, H, P, S).
    """

    window: Tensor
    ssm: Tensor

    def of(self, rows: Tensor) -> Memory:
        """The state of some rows, copied."""
        rows = rows.to(self.ssm.device)
        return Memory(self.window[rows], self.ssm[rows])

    def put(self, rows: Tensor, new: Memory) -> None:
        """Replace the state of ``rows``."""
        rows = rows.to(self.ssm.device)
        self.window[rows] = new.window
        self.ssm[rows] = new.ssm


class Mixer(nn.Module):
    """x, B, C, dt and gate from one projection, a convolution, the SSM, a gated norm.

    Args:
        width: W.
        expand: I / W.
        head_dim: P.
        state_size: S.
        conv_kernel: K.
    """

    def __init__(
        self, width: int, *, expand: int, head_dim: int, state_size: int, conv_kernel: int
    ) -> None:
        super().__init__()
        self.inner = expand * width
        self.heads = self.inner // head_dim
        self.head_dim = head_dim
        self.state_size = state_size
        self.kernel = conv_kernel
        self.channels = self.inner + 2 * state_size
        self.width = width
        self.in_proj = nn.Linear(width, self.inner + self.channels + self.heads, bias=False)
        bound = 1 / math.sqrt(conv_kernel)
        weight = torch.empty(self.channels, 1, conv_kernel).uniform_(-bound, bound)
        self.conv_weight = nn.Parameter(weight)
        self.conv_bias = nn.Parameter(torch.zeros(self.channels))
        # Mamba-2's initialisation: decay rates in 1..16, step sizes log-uniform in 0.001..0.1
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        step = torch.exp(torch.rand(self.heads) * math.log(100) + math.log(0.001))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # inverse softplus
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)

    @property
    def flops(self) -> int:
        """Of one token, by the ledger's conventions: the recurrence, the inner norm uncounted."""
        project = 2 * self.width * (self.inner + self.channels + self.heads)
        convolve = 2 * self.kernel * self.channels
        return project + convolve + 5 * self.inner * self.state_size

    def empty(self, rows: int) -> Memory:
        """The empty state of ``rows`` rows."""
        like = self.conv_weight
        return Memory(
            like.new_zeros(rows, self.channels, self.kernel - 1),
            like.new_zeros(rows, self.heads, self.head_dim, self.state_size),
        )

    def forward(
        self, inputs: Tensor, memory: Memory, lengths: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """Advance over new tokens.

        Args:
            inputs: (n, T, W), each row's tokens on the left.
            memory: the state of the n rows.
            lengths: (n,) tokens of each row, 1..T; ``None`` where all have T.

        Returns:
            (n, T, I), undefined beyond ``lengths``, and the rows' new state.
        """
        width = inputs.shape[1]
        projected = self.in_proj(inputs)
        gate, xbc, dt = projected.split([self.inner, self.channels, self.heads], dim=-1)
        seen = torch.cat([memory.window, xbc.transpose(1, 2)], dim=-1)  # (n, C, K - 1 + T)
        convolved = F.conv1d(seen, self.conv_weight, self.conv_bias, groups=self.channels)
        x, b, c = (
            F.silu(convolved)
            .transpose(1, 2)
            .split([self.inner, self.state_size, self.state_size], dim=-1)
        )
        x = x.unflatten(-1, (self.heads, self.head_dim))
        if lengths is None:
            window = seen[:, :, width:]
        else:
            places = lengths[:, None] + torch.arange(self.kernel - 1, device=seen.device)
            window = seen.gather(2, places[:, None, :].expand(-1, self.channels, -1))
            there = torch.arange(width, device=seen.device) < lengths[:, None]
            # softplus(-inf) = 0: an empty place neither decays the state nor adds to it
            dt = torch.where(there[:, :, None], dt, -torch.inf)
        if width == 1:
            output, ssm = self._step(x[:, 0], dt[:, 0], b[:, 0], c[:, 0], memory.ssm)
        else:
            output, ssm = self._scan(x, dt, b, c, memory.ssm)
        mixed: Tensor = self.norm(output.flatten(2) * F.silu(gate))
        return mixed, Memory(window, ssm)

    def _step(
        self, x: Tensor, dt: Tensor, b: Tensor, c: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One token a row: state <- state * exp(dt A) + dt x B; y = C state + D x."""
        step = F.softplus(dt + self.dt_bias)  # (n, H)
        decay = torch.exp(-step * self.A_log.exp())[:, :, None, None]
        state = state * decay + (step[..., None] * x)[..., None] * b[:, None, None, :]
        read = torch.bmm(state.flatten(1, 2), c[:, :, None]).view_as(x)
        return (read + self.D[:, None] * x)[:, None], state

    def _scan(
        self, x: Tensor, dt: Tensor, b: Tensor, c: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Many tokens a row: Mamba-2's chunked form, as transformers has it."""
        output, final = mamba2_chunk_scan(
            x,
            dt,
            -self.A_log.exp(),
            b[:, :, None],
            c[:, :, None],
            chunk_size=min(_LONGEST_SCAN, 1 << (x.shape[1] - 1).bit_length()),
            D=self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            initial_states=state,
            return_final_states=True,
        )
        return output, final
