"""The state of a decoder, a snapshot of it, and a pass over it: those of all of its layers.

Glossary: B rows of a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dynamax_lm.core.pending import PendingTokens
from dynamax_lm.core.stack import ForwardPass, TokenBatch
from dynamax_lm.decoders.adapter import LayerKind, LayerState, PassContext
from dynamax_lm.decoders.recorded_steps import StepShape
from dynamax_lm.decoders.rows import RowLengths


@dataclass
class LayerStates:
    """The state of a decoder.

    Attributes:
        layers: of each layer, its own.
        rows: padding and lengths of the rows, the same for every layer.
        pending: pending tokens; they are counted in ``rows``, and their last layers have not run.
        recorded: steps over this state, by shape.
    """

    layers: list[LayerState]
    rows: RowLengths
    pending: PendingTokens = field(default_factory=PendingTokens)
    recorded: dict[StepShape, Any] = field(default_factory=dict)

    def seen(self, layer: int) -> list[int]:
        """Tokens of each row that have run ``layer``, from 0."""
        batch = range(len(self.rows.columns))
        given = [self.rows.tokens(row) - self.pending.missing(row, layer) for row in batch]
        return self.layers[layer].seen(given)

    def drafts(self) -> bool:
        """Whether a layer keeps what it needs to withdraw tokens."""
        return any(getattr(layer, "draft", None) is not None for layer in self.layers)

    def addresses(self, layers: Sequence[int]) -> tuple[Any, ...]:
        """Address and shape of every tensor in the states of recordable ``layers``."""
        states: list[Any] = [self.layers[index] for index in layers]
        return tuple((one.data_ptr(), one.shape) for state in states for one in state.tensors())


class Mark(NamedTuple):
    """A snapshot of a state."""

    layers: list[Any]
    rows: RowLengths
    pending: PendingTokens


class DecoderPass(ForwardPass):
    """A pass through all layers.

    Attributes:
        state: of the decoder.
        skipped_state: name of the policy for frozen slots.
        contexts: of each kind of layer, the data that its layers share.
    """

    def __init__(
        self,
        token_batch: TokenBatch,
        state: LayerStates,
        skipped_state: str,
        kinds: Sequence[LayerKind],
    ) -> None:
        super().__init__(token_batch)
        self.state = state
        self.skipped_state = skipped_state
        state.rows.begin(token_batch)
        self.contexts: list[PassContext] = [
            kind.begin(self, state.rows, skipped_state) for kind in kinds
        ]

    def changed(self) -> None:
        for context in self.contexts:
            context.changed()
