"""FLOPs of Mamba-1 layers (Mamba, arXiv 2312.00752)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dynamax_lm.decoders.costs.recurrent import RecurrentCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaCosts(RecurrentCosts):
    """A decoder of Mamba-1 blocks, counted in their recurrent form.

    Attributes:
        n_layers: L, at least 1.
        width: D.
        inner: channels of x, of the gate and of the output.
        rank: width of the projection that dt is computed from.
        state_size: SSM state elements per channel.
        kernel: width of the convolution.
        vocabulary: V.
    """

    KIND: ClassVar[str] = "Mamba-1"
    KEY: ClassVar[str] = "mamba"
    SKIPPED: ClassVar[Mapping[str, Callable[[Any], int]]] = {
        "propagate": lambda costs: (
            costs.x_projection
            + costs.convolution
            + costs.selection
            + costs.step_projection
            + costs.advance
        ),
        "freeze": lambda costs: 0,
    }

    n_layers: int
    width: int
    inner: int
    rank: int
    state_size: int
    kernel: int
    vocabulary: int

    @property
    def x_projection(self) -> int:
        """The columns of in_proj that the state reads."""
        return 2 * self.width * self.inner

    @property
    def convolution(self) -> int:
        """The depthwise convolution over x."""
        return 2 * self.kernel * self.inner

    @property
    def selection(self) -> int:
        """The columns of x_proj that the state reads: those of dt and B."""
        return 2 * self.inner * (self.rank + self.state_size)

    @property
    def step_projection(self) -> int:
        """dt_proj."""
        return 2 * self.rank * self.inner

    @property
    def outputs(self) -> int:
        """What only the output reads: the gate, C, the read-out and out_proj."""
        gate_and_out = 2 * 2 * self.width * self.inner
        return gate_and_out + 2 * self.inner * self.state_size + self.read_out

    def layer(self, position: int) -> int:
        """One layer; the same at every position."""
        return self.skipped("propagate") + self.outputs
