"""The protocols of a kind of layer, with which a decoder is a list of layers.

An adapter has no access to exits: a slot stops running, and a skipped-state policy, given by name,
fills the state of the layers above.

To add a kind of layer, write one file with the state of a layer (:class:`LayerState`), what all
layers of the kind share in a pass (:class:`PassContext`, made by a :class:`LayerKind`), and the
layer itself (:class:`LayerAdapter`); its FLOPs are a ``LayerCosts`` of ``core.costs``. See
CONTRIBUTING, "A kind of layer".

Glossary: B rows of a state, N running slots, M frozen slots (exited below), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.rows import RowLengths


class LayerState(Protocol):
    """The state of one layer: its tokens' keys and values, or its recurrent state.

    >>> from dynamax_lm import load
    >>> state = load("tiny").lm.stack.layers[0].new_state(2)
    >>> state.seen([0, 0])  # tokens of each row
    [0, 0]
    """

    def seen(self, given: list[int]) -> list[int]:
        """Number of tokens of each row in the layer's state.

        Args:
            given: tokens of each row that the decoder was given and that are not pending below
                this layer. A layer whose state covers all of these returns them.
        """
        ...

    def mark(self) -> Any:
        """A snapshot of the state for ``rewind``."""
        ...

    def rewind(self, mark: Any) -> None:
        """Restore the snapshot ``mark``, which stays usable."""
        ...

    def take(self, rows: Tensor) -> Any:
        """An independent state of ``rows`` (B',), which may repeat."""
        ...

    def put(
        self, rows: Sequence[int], source: Any, taken: Sequence[int], lengths: RowLengths
    ) -> None:
        """Copy rows ``taken`` of ``source`` over ``rows``, without padding.

        Args:
            rows: of this state, all different.
            source: the same layer's state of other rows.
            taken: rows of ``source``, as many as ``rows``.
            lengths: padding and lengths of the rows of ``source``.
        """
        ...

    def begin_draft(self, rows: Sequence[int]) -> None:
        """Tokens that ``rows`` get from now on can be withdrawn, by the adapter's ``withdraw``."""
        ...


@runtime_checkable
class LoggingState(LayerState, Protocol):
    """A state that records every token since the oldest draft."""

    def end_draft(self, rows: Sequence[int]) -> None:
        """No token of ``rows`` is withdrawn any more: their drafts need no record."""
        ...


class PassContext(Protocol):
    """Data that all layers of one kind share in a pass, computed once."""

    def changed(self) -> None:
        """The running slots changed: discard what was derived from them."""
        ...


class LayerKind(Protocol):
    """Data that all layers of one kind share. Layers of one kind have the same object.

    >>> from dynamax_lm import load
    >>> first, second = load("tiny").lm.stack.layers[:2]
    >>> first.kind is second.kind
    True
    """

    @property
    def costs(self) -> LayerCosts:
        """FLOPs of a layer; its ``n_layers`` is that of the checkpoint's configuration."""
        ...

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> PassContext:
        """Start a pass.

        Args:
            run: the pass.
            rows: padding and lengths of the rows before it.
            skipped_state: name of the policy for frozen slots.
        """
        ...


@runtime_checkable
class WithdrawingKind(LayerKind, Protocol):
    """A kind whose layers return to an earlier token of a draft together, faster than one by one.

    Without it, each adapter's own ``withdraw`` is called.
    """

    def withdraw(self, layers: Any, states: Any, kept: Mapping[int, int]) -> None:
        """``withdraw`` of each of ``layers``.

        Args:
            layers: adapters of this kind.
            states: of each.
            kept: by row of the state, how many tokens stay, at least 1.
        """
        ...


SkipPolicy = Callable[[Any, Any, Any, Any], Any]
"""Fills one layer's state for the frozen slots; called as
``policy(adapter, state, below, context)``, with the layer's state, that of the nearest layer below
it with the same adapter (``None`` for the first) and the context of its kind. It writes to
``state``, or returns the inputs that ``run`` adds to those of the running slots; ``None`` for
none."""


class LayerAdapter(Protocol):
    """One layer.

    >>> from dynamax_lm import load
    >>> adapter = load("tiny").lm.stack.layers[0]
    >>> sorted(adapter.skipped)
    ['copy_kv', 'propagate']

    Attributes:
        skipped: by name, the skipped-state policies that it has, with the names of its costs'
            table. ``propagate`` is among them. ``recompute`` is not: it is no matter of a layer.
            Policies from outside the package are in ``core.skipped_states`` instead.
    """

    skipped: ClassVar[Mapping[str, SkipPolicy]]

    @property
    def kind(self) -> LayerKind:
        """Data shared with other layers of the kind."""
        ...

    def new_state(self, batch: int) -> LayerState:
        """An empty state of ``batch`` rows."""
        ...

    def run(self, hidden: Tensor, state: Any, context: Any, skipped: Any) -> Tensor:
        """Run the layer on the running slots, and write their state.

        Args:
            hidden: (N, D) of the running slots; N may be 0.
            state: this layer's.
            context: of its kind in this pass.
            skipped: what the policy returned for the frozen slots, or ``None``.

        Returns:
            (N, D).
        """
        ...

    def withdraw(self, state: Any, kept: Mapping[int, int]) -> None:
        """Remove tokens that some rows got since ``begin_draft``, except the first of them.

        Args:
            state: this layer's.
            kept: by row of the state, how many tokens stay, at least 1.
        """
        ...

    def linears(self) -> Iterator[LinearPlace]:
        """Its linear layers, whose matrix products may be chosen by measurement."""
        ...


class LayerPlan:
    """Layers in place of a checkpoint's own, from outside the package: derive from it.

    Named by ``layers=FILE.py:CLASS``, or by an entry point; made as ``CLASS()``. See CONTRIBUTING,
    "A kind of layer".

    >>> class Swapped(LayerPlan):  # the checkpoint's layers in reverse order
    ...     def costs(self, own):
    ...         return own[::-1]
    ...     def layers(self, own, model):
    ...         return own[::-1]
    >>> Swapped().costs(["below", "above"])
    ['above', 'below']

    Attributes:
        norm: for a ``model_type`` that the package lacks: the name of the final norm in the model,
            such as ``gpt_neox.final_layer_norm``. The plan then has `new_costs` in place of
            `costs`, and an adapter for each of transformers' layers.
    """

    norm: str = ""

    def costs(self, own: Sequence[LayerCosts]) -> Sequence[LayerCosts]:
        """The costs of each layer, bottom to top; called before the weights load.

        Args:
            own: those of the checkpoint's layers.
        """
        raise NotImplementedError

    def new_costs(self, config: Any) -> Sequence[LayerCosts]:
        """The same for a ``model_type`` that the package lacks.

        Args:
            config: transformers' configuration.
        """
        raise NotImplementedError

    def layers(self, own: Sequence[LayerAdapter], model: Any) -> Sequence[LayerAdapter]:
        """The layers, bottom to top, with these costs.

        Args:
            own: adapters of the checkpoint's layers; none for a ``model_type`` that the package
                lacks.
            model: transformers' model, its weights loaded.
        """
        raise NotImplementedError
