"""The constants of a Mamba mixer, and the operations on its recurrent state as a protocol.

Glossary: B rows, T tokens, C channels of the convolution, K its width, H heads, P head width, G
groups, S state size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, slots=True)
class StateSpace:
    """Constants of a layer's mixer.

    Attributes:
        mixer: transformers' ``Mamba2Mixer``.
        decay: (H,) A, negative, float32.
        taps: (K, C) the convolution's weights.
        limits: smallest and largest step size.
    """

    mixer: Any
    decay: Tensor
    taps: Tensor
    limits: tuple[float, float]

    @classmethod
    def of(cls, mixer: Any) -> StateSpace:
        """The constants of ``mixer``."""
        low, high = mixer.time_step_limit
        taps = mixer.conv1d.weight.detach()[:, 0].t().contiguous()
        return cls(mixer, -torch.exp(mixer.A_log.detach().float()), taps, (low, high))

    @property
    def unlimited(self) -> bool:
        """Whether the limits are 0 and infinity."""
        low, high = self.limits
        return low <= 0.0 and high == float("inf")

    def steps(self, dt: Tensor, bias: Tensor | None = None) -> Tensor:
        """Step sizes from raw ``dt`` (..., H); -inf gives 0, which does not change a state.

        ``bias``, in place of the layer's, is that of layers with the same limits.
        """
        raw = dt + (self.mixer.dt_bias if bias is None else bias)
        steps = F.softplus(raw.to(torch.promote_types(raw.dtype, torch.float32)))
        if self.unlimited:
            return steps
        limited = steps.clamp(*self.limits)
        return limited.masked_fill(raw == -torch.inf, 0.0) if self.limits[0] > 0.0 else limited


class Kernels(Protocol):
    """The operations on a layer's recurrent state.

    Attributes:
        few: number of tokens up to which steps are faster than a scan that continues a state.
    """

    few: int

    def scan(
        self,
        space: StateSpace,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor | None,
        initial: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Many tokens a row.

        Args:
            space: the layer.
            x: (B, T, H, P).
            dt: (B, T, H), raw.
            b: (B, T, G, S).
            c: (B, T, G, S), read-out, or ``None`` for no output.
            initial: (B, H, P, S) state before, not modified; ``None`` for zeros.

        Returns:
            (B, T, H, P) output, without ``c`` anything, and (B, H, P, S) state after.
        """
        ...

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
        """One token a row; ``state`` advances in place.

        Args:
            space: the layer.
            state: (B, H, P, S).
            rows: the N rows that have a token; ``None`` for all, in order.
            x: (N, H, P).
            dt: (N, H), raw.
            b: (N, G, S).
            c: (N, G, S), or ``None`` for no output.

        Returns:
            (N, H, P) output; without ``c``, ``x``.
        """
        ...

    def continue_rows(
        self,
        space: StateSpace,
        state: Tensor,
        rows: Sequence[int],
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor | None,
    ) -> Tensor | None:
        """A few tokens of some rows; ``state`` advances in place, without gathering them.

        Args:
            space: the layer.
            state: (B, H, P, S).
            rows: the N rows that have tokens.
            x: (N, T, H, P).
            dt: (N, T, H), raw.
            b: (N, T, G, S).
            c: (N, T, G, S), or ``None`` for no output.

        Returns:
            (N, T, H, P) output, without ``c`` anything; ``None``, and nothing done, where ``scan``
            is as fast, as it is unless kernels say otherwise.
        """
        del space, state, rows, x, dt, b, c
        return None

    def convolve(self, space: StateSpace, seen: Tensor, tokens: int) -> Tensor:
        """(B, tokens, C) activated outputs of the last ``tokens`` of ``seen`` (B, T', C).

        Inputs before the first of ``seen`` count as zeros.
        """
        ...

    def convolve_step(self, space: StateSpace, window: Tensor, xbc: Tensor) -> Tensor:
        """(N, C) activated output for one new input a row; ``window`` (N, K, C) rolls in place."""
        ...
