"""Layers with attention and a state-space mixer in parallel, as Falcon-H1 has them.

Both read the same norm of the residual stream, and their outputs are summed.

Glossary: N running slots, M frozen slots, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.adapter import SkipPolicy
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.attention import AttentionKind, AttentionLayer
from dynamax_lm.decoders.attention_context import AttentionContext
from dynamax_lm.decoders.attention_state import KeyValues
from dynamax_lm.decoders.block import Block
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.mamba2 import Mamba2Kind, Mamba2Layer
from dynamax_lm.decoders.recurrent_context import RecurrentContext
from dynamax_lm.decoders.recurrent_layer import Inputs
from dynamax_lm.decoders.recurrent_state import DraftLog, Recurrence
from dynamax_lm.decoders.rows import RowLengths


@dataclass
class BothStates:
    """The state of such a layer: that of each mixer."""

    attention: KeyValues
    recurrent: Recurrence

    @property
    def draft(self) -> DraftLog | None:
        """The record of tokens that can be withdrawn; ``None`` before the first draft."""
        return self.recurrent.draft

    def seen(self, given: list[int]) -> list[int]:
        """Tokens in the recurrent state, per row; attention has all that were given."""
        return self.recurrent.seen(given)

    def mark(self) -> Recurrence:
        """A copy of the recurrent state; attention's needs none."""
        return self.recurrent.mark()

    def rewind(self, mark: Recurrence) -> None:
        """Restore the snapshot ``mark``, which stays usable."""
        self.recurrent.rewind(mark)

    def take(self, rows: Tensor) -> BothStates:
        """An independent state of ``rows`` (B',), which may repeat."""
        return BothStates(self.attention.take(rows), self.recurrent.take(rows))

    def put(
        self, rows: Sequence[int], source: BothStates, taken: Sequence[int], lengths: RowLengths
    ) -> None:
        """Copy rows ``taken`` of ``source`` over ``rows``, without padding."""
        self.attention.put(rows, source.attention, taken, lengths)
        self.recurrent.put(rows, source.recurrent, taken, lengths)

    def begin_draft(self, rows: Sequence[int]) -> None:
        """Tokens that ``rows`` get from now on can be withdrawn."""
        self.recurrent.begin_draft(rows)

    def end_draft(self, rows: Sequence[int]) -> None:
        """The drafts of ``rows`` need no record any more."""
        self.recurrent.end_draft(rows)


class BothContexts(NamedTuple):
    """What such layers share in a pass: the contexts of both mixers."""

    run: ForwardPass
    attention: AttentionContext
    recurrent: RecurrentContext

    def changed(self) -> None:
        """The running slots changed."""
        self.attention.changed()
        self.recurrent.changed()


class ParallelKind:
    """Data that such layers share.

    Args:
        attention: of the attention mixers.
        recurrent: of the state-space mixers, with the same block.
        costs: FLOPs of a layer.
    """

    def __init__(self, attention: AttentionKind, recurrent: Mamba2Kind, costs: LayerCosts) -> None:
        self.attention, self.recurrent, self.costs = attention, recurrent, costs

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> BothContexts:
        """Start a pass."""
        return BothContexts(
            run,
            self.attention.begin(run, rows, skipped_state),
            self.recurrent.begin(run, rows, skipped_state),
        )


class ParallelLayer:
    """A block with both mixers.

    Args:
        module: the block, such as a ``FalconH1DecoderLayer``.
        kind: data shared with other layers.
        arithmetic: matrix products and norms.
    """

    def __init__(self, module: Any, kind: ParallelKind, arithmetic: Arithmetic) -> None:
        self.kind = kind
        self._attention = AttentionLayer(module, kind.attention, arithmetic)
        self._recurrent = Mamba2Layer(module, kind.recurrent, arithmetic)
        self._block = Block(module, kind.attention.block, kind.attention.config, arithmetic)
        self._into: float = module.attention_in_multiplier
        self._out_of: tuple[float, float] = (module.ssm_out_multiplier, module.attn_out_multiplier)

    @property
    def skipped(self) -> Mapping[str, SkipPolicy]:
        """A policy that both mixers have, or one for each."""
        names = {"propagate": ("propagate", "propagate")}
        for own in self._attention.skipped:
            for other in self._recurrent.skipped:
                names[f"attention:{own}+mamba2:{other}"] = (own, other)
        return {name: partial(_skip_both, pair) for name, pair in names.items()}

    def linears(self) -> Iterator[LinearPlace]:
        """Those of both mixers, and of the feed-forward module once."""
        found = [*self._attention.linears(), *self._recurrent.linears()]
        return iter(dict.fromkeys(found))

    def new_state(self, batch: int) -> BothStates:
        """Both empty."""
        return BothStates(self._attention.new_state(batch), self._recurrent.new_state(batch))

    def run(
        self, hidden: Tensor, state: BothStates, context: BothContexts, skipped: Inputs | None
    ) -> Tensor:
        """(N, D) of the running slots (N, D); both states advance."""
        hidden = self._block.arrive(hidden)
        normed = self._block.read(hidden)
        mixed = self._recurrent.mix(normed, state.recurrent, context.recurrent, skipped)
        if not hidden.shape[0]:
            return hidden
        attended = self._attention.mix(normed * self._into, state.attention, context.attention)
        ours, theirs = self._out_of
        return self._block.write(hidden, mixed * ours + attended * theirs)

    def withdraw(self, state: BothStates, kept: Mapping[int, int]) -> None:
        """Attention masks withdrawn tokens; the recurrent state returns."""
        self._recurrent.withdraw(state.recurrent, kept)

    def skip(
        self,
        names: tuple[str, str],
        state: BothStates,
        below: BothStates | None,
        context: BothContexts,
    ) -> Any:
        """Fill both states for the frozen slots, by a policy of each mixer."""
        frozen = context.run.frozen_hidden
        assert frozen is not None
        normed = self._block.read(self._block.arrive(frozen))
        if names[0] == "propagate":
            self._attention.store_frozen(normed * self._into, state.attention, context.attention)
        else:
            beneath = None if below is None else below.attention
            self._attention.copy_kv(state.attention, beneath, context.attention)
        return self._recurrent.state_inputs(normed) if names[1] == "propagate" else None


def _skip_both(
    names: tuple[str, str], layer: ParallelLayer, state: Any, below: Any, context: Any
) -> Any:
    """A policy for each mixer, as one of the layer."""
    return layer.skip(names, state, below, context)
