"""A decoder as a list of layer adapters, with an embedding, a final norm and a vocabulary head.

Glossary: B rows of a state, N running slots, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.costs import DecoderCosts, LayerCosts, costs_of_layers
from dynamax_lm.core.skipped_states import by_kind, for_kind, lacking, registered
from dynamax_lm.core.stack import ForwardPass, TokenBatch
from dynamax_lm.decoders.adapter import (
    LayerAdapter,
    LoggingState,
    SkipPolicy,
    WithdrawingKind,
)
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.cheap_projection import CheapProjection, scale_of
from dynamax_lm.decoders.cpu.chosen_products import ChosenProducts, LinearPlace
from dynamax_lm.decoders.decoder_state import DecoderPass, LayerStates, Mark
from dynamax_lm.decoders.hooks import any_hooked
from dynamax_lm.decoders.recorded_steps import RecordedSteps, StepPass, recorded_steps
from dynamax_lm.decoders.rows import RowLengths
from dynamax_lm.decoders.scaling import UNSCALED, Scaling


class Decoder:
    """Layers of any kinds between an embedding and a vocabulary head.

    >>> from dynamax_lm import load
    >>> decoder = load("tiny").lm.stack
    >>> isinstance(decoder, Decoder), decoder.n_layers
    (True, 16)

    Args:
        layers: bottom to top, at least one.
        embedding: of token ids; they go to its device.
        norm: the final norm.
        head: the slot of the vocabulary projection.
        vocab_size: V.
        arithmetic: the operations of all parts.
        scaling: of embeddings and logits.
    """

    def __init__(
        self,
        layers: Sequence[LayerAdapter],
        *,
        embedding: nn.Module,
        norm: nn.Module,
        head: LinearPlace,
        vocab_size: int,
        arithmetic: Arithmetic,
        scaling: Scaling = UNSCALED,
    ) -> None:
        self.arithmetic, self.scaling = arithmetic, scaling
        self._embedding: Any = embedding
        self._norm: Any = norm
        self._head = head
        self._head_dtype = head.linear.weight.dtype if scaling.float32 else None
        self.vocab_size = vocab_size
        self._cheap: CheapProjection | None = None
        self._steps: RecordedSteps | None = None
        self._arrange(layers)

    def _arrange(self, layers: Sequence[LayerAdapter]) -> None:
        """Take ``layers``, and what follows from them."""
        self.layers = list(layers)
        self.n_layers = len(self.layers)
        self.kinds = list({id(layer.kind): layer.kind for layer in self.layers}.values())
        places = {id(kind): place for place, kind in enumerate(self.kinds)}
        self._kind_of = [places[id(layer.kind)] for layer in self.layers]
        self._members = [
            [index for index, place in enumerate(self._kind_of) if place == number]
            for number in range(len(self.kinds))
        ]
        self._below = _alike_below(self.layers)
        tables = [set(layer.skipped) for layer in self.layers if layer.kind.costs.parts]
        shared = set.intersection(*tables) if tables else set()
        self.skipped_states = frozenset(shared | {RECOMPUTE})
        self._policies: dict[str, list[SkipPolicy]] = {}

    def with_layers(self, layers: Sequence[LayerAdapter]) -> Decoder:
        """The same decoder with other layers: embedding, norm, head and operations stay.

        Args:
            layers: bottom to top, at least one, of any kinds.
        """
        other = copy(self)
        other._steps = None
        other._arrange(layers)
        return other

    @property
    def recordable(self) -> bool:
        """Whether all layers can be part of a recorded step, on one device."""
        weights = [slot.linear.weight for layer in self.layers for slot in layer.linears()]
        devices = {weight.device for weight in weights} | {self.device}
        if len(devices) > 1 or any_hooked(self._embedding):
            return False
        return all(map(_recordable, self.layers)) and all(map(_begins_steps, self.kinds))

    def touched(self, layers: range) -> list[int]:
        """``layers``, and those below from whose states a skipped-state policy may copy."""
        below = {source for index in layers if (source := self._below[index]) is not None}
        return sorted(below | set(layers))

    @property
    def example(self) -> Tensor:
        """(1, D) a hidden state's width, number format and device."""
        weight: Tensor = self._embedding.weight
        return weight[:1]

    def record_steps(self, steps: RecordedSteps | None = None) -> bool:
        """Record decoding steps from now on: whether they can be.

        Args:
            steps: by default as CUDA graphs, where all layers are on a GPU and recordable.
        """
        self._steps = steps or recorded_steps(self)
        return self._steps is not None

    @property
    def records_steps(self) -> bool:
        """Whether decoding steps are recorded; not if one could not be."""
        return self._steps is not None and not self._steps.failed

    def replay(
        self,
        state: LayerStates,
        token_batch: TokenBatch,
        layers: range,
        hidden: Tensor | None,
        skipped_state: str,
        running: int | None,
    ) -> Tensor | None:
        """(N, D) of each row's last token after ``layers``, by a recorded step.

        Args:
            state: of the rows; afterwards it includes ``token_batch``.
            token_batch: one token a row, or pending tokens of each row.
            layers: to run.
            hidden: of all tokens, row after row; ``None`` before the first layer.
            skipped_state: the skipped-state policy.
            running: 1 if the last token of each row runs and the others have exited.

        Returns:
            ``None`` where such a step is not recorded.
        """
        if self._steps is None:
            return None
        return self._steps.run(state, token_batch, layers, hidden, skipped_state, running)

    @property
    def costs(self) -> DecoderCosts:
        """FLOPs of all layers."""
        return costs_of_layers([layer.kind.costs for layer in self.layers])

    @property
    def products(self) -> ChosenProducts:
        """The products chosen by ``choose_products``."""
        return self.arithmetic.products

    @property
    def lm_head(self) -> Any:
        """The vocabulary projection."""
        return self._head.linear

    @property
    def device(self) -> torch.device:
        """The device of token ids."""
        device: torch.device = self._embedding.weight.device
        return device

    def choose_products(self, **options: Any) -> None:
        """Measure which products are fastest on this machine, and repack the weights for them.

        The model stays usable.

        Args:
            **options: see ``chosen_products.choose_products``.
        """
        linears = [slot for layer in self.layers for slot in layer.linears()]
        tied = self.lm_head.weight is self._embedding.weight
        self.arithmetic.choose([*linears, self._head._replace(stays=tied)], **options)

    def new_state(self, batch: int) -> LayerStates:
        """An empty state of ``batch`` rows."""
        states = [layer.new_state(batch) for layer in self.layers]
        return LayerStates(states, RowLengths.empty(batch))

    def begin(self, state: LayerStates, token_batch: TokenBatch, skipped_state: str) -> DecoderPass:
        """Start a pass; ``skipped_state`` names the policy for frozen slots."""
        return DecoderPass(token_batch, state, skipped_state, self.kinds)

    def embed(self, run: ForwardPass) -> Tensor:
        """(N, D) the residual stream at the input of the first layer."""
        embedded: Tensor = self._embedding(run.token_batch.ids.flatten()[run.slots])
        return self.scaling.embedded(embedded)

    def layer(self, index: int, hidden: Tensor, run: ForwardPass) -> Tensor:
        """(N, D) of the running slots (N, D) after layer ``index``; updates all slots' state."""
        assert isinstance(run, DecoderPass | StepPass)
        layer, states = self.layers[index], run.state.layers
        context = run.contexts[self._kind_of[index]]
        skipped = None
        if run.frozen_hidden is not None and run.skipped_state != RECOMPUTE:
            source = self._below[index]
            below = None if source is None else states[source]
            policy = self._policy(run.skipped_state)[index]
            skipped = policy(layer, states[index], below, context)
        return layer.run(hidden, states[index], context, skipped)

    def _policy(self, name: str) -> list[SkipPolicy]:
        """Of each layer, the skipped-state policy of that name; looked up once."""
        if name not in self._policies:
            self._policies[name] = [_policy_of(layer, name) for layer in self.layers]
        return self._policies[name]

    def end(self, state: LayerStates, run: ForwardPass) -> None:
        """Close a pass: the state now includes its tokens."""
        state.rows.end(run.token_batch)
        assert isinstance(run, DecoderPass)
        run.contexts = []  # which refer to the pass, and by it to the state: a large cycle

    def unembed(self, hidden: Tensor) -> Tensor:
        """(N, V) logits of ``hidden`` (N, D)."""
        return self.project(self.normed(hidden))

    def project(self, normed: Tensor) -> Tensor:
        """(N, V) logits of hidden states (N, D) after the final norm."""
        return self.scaling.finished(self.arithmetic.project(self.lm_head, self._input(normed)))

    def project_low_rank(self, normed: Tensor, rank: int) -> Tensor:
        """(N, V) logits of ``normed`` (N, D) by factors of the unembedding (1..D: their rank)."""
        return self.scaling.finished(self.cheap_projection.low_rank(self._input(normed), rank))

    def project_tokens(self, normed: Tensor, tokens: Tensor) -> Tensor:
        """(N, M) logits of ``normed`` (N, D) for ``tokens`` (N, M) alone."""
        return self.scaling.finished(self.cheap_projection.of_tokens(self._input(normed), tokens))

    @property
    def cheap_projection(self) -> CheapProjection:
        """Cheap looks at the vocabulary projection; made at the first use.

        Raises:
            ValueError: a projection that is not a plain linear layer.
        """
        if self._cheap is None:
            width = self.lm_head.in_features
            self._cheap = CheapProjection(self.lm_head, scale_of(self._norm, width))
        return self._cheap

    def _input(self, normed: Tensor) -> Tensor:
        """(N, D) ``normed`` in the number format of the projection."""
        if self.scaling.float32:  # a model that projects in the head's own number format
            return normed.to(self._head_dtype)
        return normed

    def normed(self, hidden: Tensor) -> Tensor:
        """(N, D) ``hidden`` (N, D) after the final norm."""
        return self.arithmetic.normalise(self._norm, hidden.to(self._norm.weight.device))

    def mark(self, state: LayerStates) -> Mark:
        """A snapshot of ``state`` for :meth:`rewind`."""
        marks = [layer.mark() for layer in state.layers]
        return Mark(marks, state.rows.copy(), state.pending.copy())

    def rewind(self, state: LayerStates, mark: Mark) -> None:
        """Restore ``state`` to the snapshot ``mark``."""
        for layer, layer_mark in zip(state.layers, mark.layers, strict=True):
            layer.rewind(layer_mark)
        state.rows, state.pending = mark.rows.copy(), mark.pending.copy()

    def begin_draft(self, state: LayerStates, rows: Sequence[int]) -> None:
        """Tokens that ``rows`` get from now on can be withdrawn; none is pending."""
        for layer in state.layers:
            layer.begin_draft(rows)

    def end_draft(self, state: LayerStates, rows: Sequence[int]) -> None:
        """Discard what the drafts of ``rows`` need: none of them is withdrawn any more."""
        for layer in state.layers:
            if isinstance(layer, LoggingState):
                layer.end_draft(rows)

    def withdraw(
        self, state: LayerStates, kept: Mapping[int, int], given: Mapping[int, int]
    ) -> None:
        """Remove tokens that some rows got since ``begin_draft``, except the first of them.

        Args:
            state: of the decoder; no token of these rows is pending.
            kept: by row, how many of these tokens stay, at least 1 and fewer than ``given``.
            given: by row, how many tokens it got.
        """
        for kind, members in zip(self.kinds, self._members, strict=True):
            layers = [self.layers[index] for index in members]
            states = [state.layers[index] for index in members]
            if isinstance(kind, WithdrawingKind):
                kind.withdraw(layers, states, kept)
                continue
            for adapter, own in zip(layers, states, strict=True):
                adapter.withdraw(own, kept)
        for row, count in kept.items():
            state.rows.columns[row] -= given[row] - count

    def take(self, state: LayerStates, rows: Sequence[int]) -> LayerStates:
        """An independent state of ``rows`` of ``state``; rows may repeat."""
        index = torch.tensor(rows, dtype=torch.long)
        layers = [layer.take(index) for layer in state.layers]
        return LayerStates(layers, state.rows.take(rows), state.pending.take(rows))

    def put(
        self, state: LayerStates, rows: Sequence[int], source: LayerStates, taken: Sequence[int]
    ) -> None:
        """Copy rows ``taken`` of ``source`` over ``rows`` of ``state``, without their padding."""
        if not rows:
            return
        for to, layer in zip(state.layers, source.layers, strict=True):
            to.put(rows, layer, taken, source.rows)
        state.rows.put(rows, source.rows, taken)
        for row in rows:
            state.pending.rows.pop(row, None)


def _alike_below(layers: Sequence[LayerAdapter]) -> list[int | None]:
    """Of each layer, the nearest layer below it with the same adapter, whose state is alike."""
    found: list[int | None] = []
    last: dict[type[Any], int] = {}
    for index, layer in enumerate(layers):
        found.append(last.get(type(layer)))
        last[type(layer)] = index
    return found


def _recordable(layer: Any) -> bool:
    """Whether the layer's own class says so: one that is derived from it may run anything."""
    return "recordable" in vars(type(layer)) and bool(layer.recordable)


def _begins_steps(kind: Any) -> bool:
    """Whether the class that begins a kind's passes begins its recorded steps too."""
    classes = [vars(one) for one in type(kind).__mro__ if {"begin", "begin_step"} & set(vars(one))]
    return bool(classes) and {"begin", "begin_step"} <= set(classes[0])


def _nothing(layer: Any, state: Any, below: Any, context: Any) -> None:
    """The policy of layers without state."""


def _for_parts(name: str, parts: Sequence[LayerCosts]) -> str:
    """A skipped state given by kind, for a layer of these parts, in their order."""
    policies = {part.KEY: for_kind(name, part.KEY) for part in parts}
    if len(set(policies.values())) == 1:
        return next(iter(policies.values()))
    return "+".join(f"{kind}:{policy}" for kind, policy in policies.items())


def _policy_of(layer: LayerAdapter, name: str) -> SkipPolicy:
    """The policy of the layer's own table, or one from outside the package for its kind.

    Raises:
        ValueError: the layer has no such policy.
    """
    if name in layer.skipped:
        return layer.skipped[name]
    outside, costs = registered(name), layer.kind.costs
    if not costs.parts:
        return _nothing
    if by_kind(name) and (own := _for_parts(name, costs.parts)) != name:
        return _policy_of(layer, own)
    if outside is None or not all(isinstance(part, outside.facts.layers) for part in costs.parts):
        raise lacking(costs.KIND, name)
    return outside.policy.skip
