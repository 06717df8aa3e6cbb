"""What a layer of any kind offers, so that a decoder is a list of layers.

Owns the protocols of a kind of layer. An adapter does not know that exits exist: a cell stops
running, and its layers above are given a state by a named policy.

To add a kind of layer, write one file with the state of a layer (:class:`LayerState`), what all
layers of the kind share in a pass (:class:`PassContext`, made by a :class:`LayerKind`), and the
layer itself (:class:`LayerAdapter`); its FLOPs are a ``LayerCosts`` of ``core.ledger``.

Glossary: B rows of a state, N running cells, M frozen cells (those that exited below), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from dynamax_lm.core.ledger import LayerCosts
from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.cpu.chosen_products import Slot
from dynamax_lm.decoders.rows import RowLengths


class LayerState(Protocol):
    """What one layer keeps of the tokens it has seen."""

    def seen(self, given: list[int]) -> list[int]:
        """Tokens of each row that the layer has seen.

        Args:
            given: tokens of each row that the decoder has been given and that are not pending
                below this layer. A layer that sees no others returns them.
        """
        ...

    def mark(self) -> Any:
        """What ``rewind`` needs to bring back the present state."""
        ...

    def rewind(self, mark: Any) -> None:
        """Go back to where ``mark`` was made, which stays usable."""
        ...

    def take(self, rows: Tensor) -> Any:
        """An independent state of ``rows`` (B',), which may repeat."""
        ...

    def begin_draft(self, rows: Sequence[int]) -> None:
        """From now on the tokens of ``rows`` may be withdrawn, by ``withdraw`` of the adapter."""
        ...


class PassContext(Protocol):
    """What all layers of one kind share in a pass, computed once for them."""

    def changed(self) -> None:
        """The running cells changed: drop what was derived from them."""
        ...


class LayerKind(Protocol):
    """What all layers of one kind share. Layers of equal kind have the same object."""

    @property
    def costs(self) -> LayerCosts:
        """FLOPs of a layer; its ``n_layers`` is that of the checkpoint's configuration."""
        ...

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> PassContext:
        """Start a pass.

        Args:
            run: the cells.
            rows: where the rows stand before it.
            skipped_state: name of the policy for frozen cells.
        """
        ...


SkipPolicy = Callable[[Any, Any, Any, Any], Any]
"""Gives one layer the state of the frozen cells; called as
``policy(adapter, state, below, context)``, with the layer's state, that of the layer below it in
the decoder (``None`` for the first) and the context of its kind. It writes to ``state``, or returns
what ``run`` is to take in together with the running cells; ``None`` for nothing."""


class LayerAdapter(Protocol):
    """One layer.

    Attributes:
        skipped: by name, the skipped-state policies that it has, with the names of its costs'
            table. ``propagate`` is among them. ``recompute`` is not: it is no matter of a layer.
    """

    skipped: ClassVar[Mapping[str, SkipPolicy]]

    @property
    def kind(self) -> LayerKind:
        """What it shares with other layers."""
        ...

    def new_state(self, batch: int) -> LayerState:
        """An empty state of ``batch`` rows."""
        ...

    def run(self, hidden: Tensor, state: Any, context: Any, skipped: Any) -> Tensor:
        """Run the layer on the running cells, and write their state.

        Args:
            hidden: (N, D) of the running cells; N may be 0.
            state: this layer's.
            context: of its kind in this pass.
            skipped: what the policy returned for the frozen cells, or ``None``.

        Returns:
            (N, D).
        """
        ...

    def withdraw(self, state: Any, kept: Mapping[int, int]) -> None:
        """Forget the tokens of some rows since ``begin_draft``, but for their first ones.

        Args:
            state: this layer's.
            kept: by row of the state, how many tokens stay, at least 1.
        """
        ...

    def linears(self) -> Iterator[Slot]:
        """Its linear layers whose products may be chosen by measurement."""
        ...
