"""FLOPs of Mamba-2 layers, in their recurrent form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dynamax_lm.decoders.costs.recurrent import RecurrentCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Costs(RecurrentCosts):
    """A decoder of Mamba-2 blocks, counted in their recurrent form.

    A parallel scan computes more; it is billed as the recurrence, for exits and full depth alike,
    so that a number does not depend on how a prompt is divided into chunks.

    >>> widths = {"width": 8, "inner": 16, "heads": 4, "groups": 1, "state_size": 4, "kernel": 4}
    >>> costs = Mamba2Costs(n_layers=2, vocabulary=32, **widths)
    >>> costs.layer(9) == costs.layer(0)  # the state has a fixed size
    True

    Attributes:
        n_layers: L, at least 1.
        width: D.
        inner: width of x, of the gate and of the output: heads times head width.
        heads: SSM heads, one dt each.
        groups: groups of B and C.
        state_size: SSM state elements per inner channel.
        kernel: width of the convolution.
        vocabulary: V.
    """

    KIND: ClassVar[str] = "Mamba-2"
    KEY: ClassVar[str] = "mamba2"
    SKIPPED: ClassVar[Mapping[str, Callable[[Any], int]]] = {
        # the convolution is billed whole: its window includes C
        "propagate": lambda costs: costs.state_projection + costs.convolution + costs.advance,
        "freeze": lambda costs: 0,
    }

    n_layers: int
    width: int
    inner: int
    heads: int
    groups: int
    state_size: int
    kernel: int
    vocabulary: int

    @classmethod
    def from_config(cls, config: Any) -> Mamba2Costs:
        """Read the attributes of a transformers ``Mamba2Config``."""
        return cls(
            n_layers=config.num_hidden_layers,
            width=config.hidden_size,
            inner=int(config.expand * config.hidden_size),
            heads=config.num_heads,
            groups=config.n_groups,
            state_size=config.state_size,
            kernel=config.conv_kernel,
            vocabulary=config.vocab_size,
        )

    @property
    def channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.state_size

    @property
    def state_projection(self) -> int:
        """The columns of in_proj that the state reads: x, B, C and dt."""
        return 2 * self.width * (self.channels + self.heads)

    @property
    def gate_projection(self) -> int:
        """The remaining columns of in_proj."""
        return 2 * self.width * self.inner

    @property
    def convolution(self) -> int:
        """The depthwise convolution over x, B and C."""
        return 2 * self.kernel * self.channels

    @property
    def out_projection(self) -> int:
        """out_proj."""
        return 2 * self.inner * self.width

    def layer(self, position: int) -> int:
        """One layer; the same at every position."""
        return (
            self.state_projection
            + self.gate_projection
            + self.convolution
            + self.advance
            + self.read_out
            + self.out_projection
        )
