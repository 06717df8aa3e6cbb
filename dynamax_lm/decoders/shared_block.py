"""Layers with a shared attention block before a state-space mixer, as Zamba2 has them.

Several layers have the same attention block, each with adapters of its own. The block reads the
residual stream beside the token's embedding; after its feed-forward module and the layer's own
projection, its output is added to the input of the state-space mixer, and to nothing else.

What the mixer's state has of a token thus depends on the whole block. Under ``propagate`` the block
runs on frozen slots as on running ones, from their hidden states at the exit.

Glossary: N running slots, M frozen slots, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.adapter import SkipPolicy
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.attention import AttentionKind, AttentionLayer
from dynamax_lm.decoders.attention_context import AttentionContext
from dynamax_lm.decoders.block import Block
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.mamba2 import Mamba2Kind, Mamba2Layer
from dynamax_lm.decoders.parallel import BothStates
from dynamax_lm.decoders.rows import RowLengths


class _AllSlots(ForwardPass):
    """The running and the frozen slots of a pass, as running slots of another.

    Attributes:
        order: (N + M,) places in the running slots followed by the frozen ones.
    """

    def __init__(self, run: ForwardPass) -> None:
        super().__init__(run.token_batch)
        joined = torch.cat([run.slots, run.frozen])
        self.order = joined.argsort()
        self.slots = joined[self.order]


class SharedContext:
    """What such layers share in a pass: the contexts of both mixers, and the embeddings.

    Attributes:
        run: the pass.
        attention: of the running slots.
        recurrent: of the state-space mixers.
    """

    def __init__(
        self, run: ForwardPass, attention: AttentionContext, recurrent: Any, embedding: nn.Module
    ) -> None:
        self.run, self.attention, self.recurrent = run, attention, recurrent
        self._embedded: Tensor = embedding(run.token_batch.ids.flatten())
        self._together: AttentionContext | None = None

    def changed(self) -> None:
        """The running slots changed."""
        self.attention.changed()
        self.recurrent.changed()
        self._together = None

    def embedded(self, slots: Tensor) -> Tensor:
        """(N, D) embeddings of the tokens in ``slots`` (N,)."""
        return self._embedded[slots]

    def together(self) -> AttentionContext:
        """The context of attention for running and frozen slots as one set."""
        if self._together is None:
            self._together = copy(self.attention)
            self._together.run = _AllSlots(self.run)
            self._together.changed()
        return self._together


class SharedKind:
    """Data that such layers share.

    Args:
        attention: of the attention blocks.
        recurrent: of the state-space mixers.
        embedding: of token ids, whose output is the residual stream at the first layer.
        costs: FLOPs of a layer.
    """

    def __init__(
        self,
        attention: AttentionKind,
        recurrent: Mamba2Kind,
        embedding: nn.Module,
        costs: LayerCosts,
    ) -> None:
        self.attention, self.recurrent, self.costs = attention, recurrent, costs
        self._embedding = embedding

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> SharedContext:
        """Start a pass."""
        return SharedContext(
            run,
            self.attention.begin(run, rows, skipped_state),
            self.recurrent.begin(run, rows, skipped_state),
            self._embedding,
        )


class SharedAttention(AttentionLayer):
    """The shared attention block in one of its layers.

    Args:
        block: the block, a ``Zamba2AttentionDecoderLayer``.
        index: of the layer in the model, from 0.
        kind: data shared with other layers.
        arithmetic: matrix products and norms.
    """

    def __init__(self, block: Any, index: int, kind: AttentionKind, arithmetic: Arithmetic) -> None:
        super().__init__(block, kind, arithmetic)
        self._feed_forward, self._index = block.feed_forward, index
        self._middle_norm = block.pre_ff_layernorm
        use = self._attention.layer_dic[index]
        lists = {f"{one}_proj": f"linear_{one}_adapter_list" for one in "qkv"}
        self._adapters: dict[str, nn.Module] = {
            name: getattr(self._attention, adapters)[use]
            for name, adapters in lists.items()
            if hasattr(self._attention, adapters)
        }

    def linears(self) -> Iterator[LinearPlace]:
        """Projections; they stay, as other layers have the same weights."""
        for slot in super().linears():
            yield slot._replace(stays=True)

    def read(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """(N, 2 * D) the attention's input for ``hidden`` (N, D) and its tokens' embeddings."""
        return self._block.read(torch.cat([hidden, embedded.to(hidden)], dim=-1))

    def output(self, attended: Tensor) -> Tensor:
        """(N, D) the block's output for that of its attention (N, D)."""
        rows = self._arithmetic.normalise(self._middle_norm, attended)
        fed: Tensor = self._feed_forward(rows, self._index)
        return fed

    def _projected(self, name: str, normed: Tensor) -> Tensor:
        projected, adapter = super()._projected(name, normed), self._adapters.get(name)
        return projected if adapter is None else projected + adapter(normed)


class SharedBlockLayer:
    """A layer with the shared attention block and a state-space mixer.

    Args:
        module: the layer, a ``Zamba2HybridLayer``.
        kind: data shared with other layers.
        arithmetic: matrix products and norms.
    """

    def __init__(self, module: Any, kind: SharedKind, arithmetic: Arithmetic) -> None:
        self.kind = kind
        inner = module.mamba_decoder
        self._module, self._arithmetic = module, arithmetic
        self._attention = SharedAttention(
            module.shared_transformer, inner.layer_idx, kind.attention, arithmetic
        )
        self._recurrent = Mamba2Layer(inner, kind.recurrent, arithmetic)
        self._block = Block(inner, kind.recurrent.block, kind.recurrent.config, arithmetic)

    def linears(self) -> Iterator[LinearPlace]:
        """Those of the attention block, the layer's own projection, and those of the mixer."""
        yield from self._attention.linears()
        yield LinearPlace(self._module, "linear")
        yield from self._recurrent.linears()

    def new_state(self, batch: int) -> BothStates:
        """Both empty."""
        return BothStates(self._attention.new_state(batch), self._recurrent.new_state(batch))

    def run(
        self, hidden: Tensor, state: BothStates, context: SharedContext, skipped: Tensor | None
    ) -> Tensor:
        """(N, D) of the running slots (N, D); both states advance.

        ``skipped`` (M, D) are hidden states of the frozen slots that both mixers take in.
        """
        hidden, taken = self._block.arrive(hidden), None
        if skipped is None:
            added = self._added(hidden, state, context, context.attention)
        else:
            together = context.together()
            assert isinstance(together.run, _AllSlots)
            order = together.run.order.to(hidden.device)
            ordered = torch.cat([hidden, skipped])[order]
            both = torch.empty_like(ordered)
            both[order] = self._added(ordered, state, context, together)
            added, beside = both.split([hidden.shape[0], skipped.shape[0]])
            taken = self._recurrent.state_inputs(self._block.read(skipped + beside))
        normed = self._block.read(hidden + added)
        mixed = self._recurrent.mix(normed, state.recurrent, context.recurrent, taken)
        return self._block.write(hidden, mixed) if hidden.shape[0] else hidden

    def _added(
        self, hidden: Tensor, state: BothStates, context: SharedContext, attention: AttentionContext
    ) -> Tensor:
        """(N, D) what the shared block adds to the mixer's input, in the slots of ``attention``."""
        if not hidden.shape[0]:
            return hidden
        normed = self._attention.read(hidden, context.embedded(attention.run.slots))
        attended = self._attention.mix(normed, state.attention, attention)
        return self._arithmetic.project(self._module.linear, self._attention.output(attended))

    def withdraw(self, state: BothStates, kept: Mapping[int, int]) -> None:
        """Attention masks withdrawn tokens; the recurrent state returns."""
        self._recurrent.withdraw(state.recurrent, kept)

    def propagate(
        self, state: BothStates, below: BothStates | None, context: SharedContext
    ) -> Tensor:
        """(M, D) the hidden states of the frozen slots, on which :meth:`run` runs the block."""
        del state, below
        assert context.run.frozen_hidden is not None
        return self._block.arrive(context.run.frozen_hidden)

    def store_frozen(
        self, state: BothStates, below: BothStates | None, context: SharedContext
    ) -> None:
        """Keys and values of the frozen slots; the mixer's state does not change."""
        frozen = self.propagate(state, below, context)
        normed = self._attention.read(frozen, context.embedded(context.run.frozen))
        self._attention.store_frozen(normed, state.attention, context.attention)

    def copy_frozen(
        self, state: BothStates, below: BothStates | None, context: SharedContext
    ) -> None:
        """Keys and values as the shared block below has them; the mixer's state does not change."""
        beneath = None if below is None else below.attention
        self._attention.copy_kv(state.attention, beneath, context.attention)

    skipped: ClassVar[Mapping[str, SkipPolicy]] = {
        "propagate": propagate,
        "attention:propagate+mamba2:freeze": store_frozen,
        "attention:copy_kv+mamba2:freeze": copy_frozen,
    }
