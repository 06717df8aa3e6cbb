"""Layers without state: a feed-forward module alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.adapter import SkipPolicy
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.block import Block
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.description import BlockNames
from dynamax_lm.decoders.rows import RowLengths


class NoState:
    """The state of such a layer: nothing."""

    def seen(self, given: list[int]) -> list[int]:
        """All tokens given."""
        return given

    def mark(self) -> None:
        """Nothing."""

    def rewind(self, mark: None) -> None:
        """Nothing."""

    def take(self, rows: Tensor) -> NoState:
        """Another."""
        del rows
        return NoState()

    def put(
        self, rows: Sequence[int], source: NoState, taken: Sequence[int], lengths: RowLengths
    ) -> None:
        """Nothing."""

    def begin_draft(self, rows: Sequence[int]) -> None:
        """Nothing."""


class NoContext:
    """What such layers share in a pass: nothing."""

    def changed(self) -> None:
        """Nothing is derived from the running slots."""


class FeedForwardKind:
    """Data that such layers share.

    Args:
        config: of the model.
        block: where the parts of a block are; its mixer's are empty.
        costs: FLOPs of a layer.
    """

    def __init__(self, config: Any, block: BlockNames, costs: LayerCosts) -> None:
        self.config, self.block, self.costs = config, block, costs

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> NoContext:
        """Start a pass."""
        del run, rows, skipped_state
        return NoContext()


class FeedForwardLayer:
    """A norm and a feed-forward module.

    Args:
        module: the block.
        kind: data shared with other layers.
        arithmetic: matrix products and norms.
    """

    skipped: ClassVar[Mapping[str, SkipPolicy]] = {}

    def __init__(self, module: Any, kind: FeedForwardKind, arithmetic: Arithmetic) -> None:
        self.kind = kind
        self._block = Block(module, kind.block, kind.config, arithmetic)

    def linears(self) -> Iterator[LinearPlace]:
        """Those of a gated module."""
        return self._block.linears()

    def new_state(self, batch: int) -> NoState:
        """Nothing."""
        del batch
        return NoState()

    def run(self, hidden: Tensor, state: NoState, context: NoContext, skipped: None) -> Tensor:
        """(N, D) of the running slots (N, D)."""
        del state, context, skipped
        return self._block.feed(self._block.arrive(hidden)) if hidden.shape[0] else hidden

    def withdraw(self, state: NoState, kept: Mapping[int, int]) -> None:
        """Nothing to do."""
