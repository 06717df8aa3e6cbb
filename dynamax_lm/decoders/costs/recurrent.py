"""FLOPs that state-space layers of every kind share, counted in their recurrent form."""

from __future__ import annotations

from dynamax_lm.core.costs import LayerCosts

_ADVANCE_OPS = 3  # decay, outer product, sum
_READ_OUT_OPS = 2  # product, sum


class RecurrentCosts(LayerCosts):
    """Costs of a layer whose state has one size at every position.

    Attributes:
        inner: channels of x, of the gate and of the output.
        state_size: SSM state elements per channel.
    """

    __slots__ = ()
    inner: int
    state_size: int

    @property
    def advance(self) -> int:
        """The SSM state's step: decay, outer product, sum."""
        return _ADVANCE_OPS * self.inner * self.state_size

    @property
    def read_out(self) -> int:
        """The SSM's output: product with C, sum."""
        return _READ_OUT_OPS * self.inner * self.state_size

    def prompt_layer(self, tokens: int) -> int:
        """One layer for ``tokens`` positions, in recurrent form."""
        return tokens * self.layer(0)
