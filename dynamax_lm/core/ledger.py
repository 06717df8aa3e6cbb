"""FLOPs of tokens in closed form, from the numbers of a configuration; imports no torch.

Convention, written into every result as ``CONVENTION``: 2 per multiply-add. Counted are the matrix
products, attention's two products over the visible keys, the depthwise convolution, and the SSM
step. The last is 5 per state element: decay, outer product and sum advance the state (3), product
and sum read it out (2). Elementwise work (rotary embedding, softmax, activations, gates, biases,
residual sums, the layers' own norms, the argmax of an exit) is not counted, except for work that an
exit adds: its norm (4 per element: square, sum, scale, weight) and saturation's cosine (6 per
element: three dot products). Looking up an embedding costs 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from dynamax_lm.core.catchup import RECOMPUTE, final_depths
from dynamax_lm.core.measures import Check, MeasureFacts, facts_of
from dynamax_lm.core.skipped_states import SkippedFacts, registered
from dynamax_lm.core.trace import DraftRound, FlopsBreakdown

CONVENTION = (
    "FLOPs, 2 per multiply-add: matrix products, attention over the keys a token really sees "
    "(causal and windowed), depthwise convolution, and the SSM in its recurrent form at 5 per "
    "state element (advance 3, read-out 2), in the prompt too. Elementwise work is not counted, "
    "except the norm (4 per element) and cosine (6 per element) of exits and emission; embedding "
    "lookups cost 0. Each exit asked is billed; a vocabulary projection made by a check is reused "
    "for the emission. flops_saved is net: 1 - spent / full depth."
)

_NORM_OPS = 4
_ADVANCE_OPS = 3
_READ_OUT_OPS = 2


class DecoderCosts(Protocol):
    """FLOPs of a decoder's parts for one token, independent of the rest of the batch."""

    @property
    def n_layers(self) -> int:
        """L, decoder layers; at least 1."""
        ...

    @property
    def width(self) -> int:
        """D, elements of the residual stream."""
        ...

    @property
    def vocabulary(self) -> int:
        """V, rows of the vocabulary projection."""
        ...

    def layers(self, position: int, first: int, last: int) -> int:
        """Layers ``first``..``last - 1``, from 0, for the token at ``position``, from 0."""
        ...

    def prompt(self, tokens: int) -> int:
        """All layers for positions 0..tokens-1, without a final norm or projection."""
        ...

    def states(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """The state of the skipped layers ``first``..L-1 for one token.

        Raises:
            ValueError: one of these layers has no such ``skipped_state``.
        """
        ...


class LayerCosts:
    """FLOPs of one kind of layer, and of a decoder whose layers are all of this kind.

    A subclass is a frozen dataclass of a configuration's numbers. It gives ``layer``,
    ``prompt_layer`` and ``SKIPPED``; the sums over layers follow.

    Attributes:
        KIND: the kind's name in error messages.
        SKIPPED: by name of a skipped-state policy, the FLOPs of one skipped layer's state for one
            token. Settings and decoders read the names of a kind of layer here.
        n_layers: L, at least 1.
        width: D.
        vocabulary: V.
    """

    __slots__ = ()
    KIND: ClassVar[str]
    SKIPPED: ClassVar[Mapping[str, Callable[[Any], int]]]
    n_layers: int
    width: int
    vocabulary: int

    def layer(self, position: int) -> int:
        """One layer for the token at ``position``, counted from 0 in its whole sequence."""
        raise NotImplementedError

    def prompt_layer(self, tokens: int) -> int:
        """One layer for positions 0..tokens-1."""
        raise NotImplementedError

    def skipped(self, skipped_state: str | SkippedFacts) -> int:
        """The state of one skipped layer for one token.

        ``recompute`` is 0 here: whole layers are billed when a pending token runs them.

        Raises:
            ValueError: this kind of layer has no such ``skipped_state``.
        """
        if skipped_state == RECOMPUTE:
            return 0
        if isinstance(skipped_state, SkippedFacts):
            if isinstance(self, skipped_state.layers):
                return skipped_state.flops(self)
        elif skipped_state in self.SKIPPED:
            return self.SKIPPED[skipped_state](self)
        elif outside := registered(skipped_state):
            return self.skipped(outside.facts)
        name = skipped_state.name if isinstance(skipped_state, SkippedFacts) else skipped_state
        raise ValueError(f"{self.KIND} has no skipped_state {name!r}")

    def layers(self, position: int, first: int, last: int) -> int:
        """Layers ``first``..``last - 1`` for the token at ``position``."""
        return (last - first) * self.layer(position)

    def prompt(self, tokens: int) -> int:
        """All layers for positions 0..tokens-1, each at its real context."""
        return self.n_layers * self.prompt_layer(tokens)

    def states(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """The state of layers ``first``..L-1 for one token."""
        return (self.n_layers - first) * self.skipped(skipped_state)


@dataclass(frozen=True, slots=True)
class HybridCosts:
    """A decoder whose layers are of several kinds.

    Attributes:
        kinds: of each layer, the costs of its kind, all of one width and vocabulary; the
            ``n_layers`` of a kind is not read.
    """

    kinds: tuple[LayerCosts, ...]

    def __post_init__(self) -> None:
        if len({(kind.width, kind.vocabulary) for kind in self.kinds}) != 1:
            raise ValueError("the layers of a decoder have one width and one vocabulary")

    @property
    def n_layers(self) -> int:
        """L."""
        return len(self.kinds)

    @property
    def width(self) -> int:
        """D."""
        return self.kinds[0].width

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.kinds[0].vocabulary

    def layers(self, position: int, first: int, last: int) -> int:
        """Layers ``first``..``last - 1`` for the token at ``position``, each by its kind."""
        return sum(kind.layer(position) for kind in self.kinds[first:last])

    def prompt(self, tokens: int) -> int:
        """All layers for positions 0..tokens-1."""
        return sum(kind.prompt_layer(tokens) for kind in self.kinds)

    def states(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """The state of layers ``first``..L-1 for one token.

        Raises:
            ValueError: one of these layers has no such ``skipped_state``.
        """
        return sum(kind.skipped(skipped_state) for kind in self.kinds[first:])


def skipped_states(*kinds: type[LayerCosts]) -> tuple[str, ...]:
    """Names of the skipped-state policies that layers of all ``kinds`` have; one kind or more."""
    first, *others = kinds
    shared = [name for name in first.SKIPPED if all(name in kind.SKIPPED for kind in others)]
    return (*shared, RECOMPUTE)


def norm_flops(costs: DecoderCosts) -> int:
    """One norm over the residual stream."""
    return _NORM_OPS * costs.width


def unembed_flops(costs: DecoderCosts) -> int:
    """One vocabulary projection, without its norm."""
    return 2 * costs.width * costs.vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCosts(LayerCosts):
    """A decoder of grouped-query attention and a gated feed-forward block (Mistral, Llama).

    Attributes:
        n_layers: L, at least 1.
        width: D.
        feedforward: width of the gated feed-forward block.
        query_heads: heads of Q.
        kv_heads: heads of K and of V.
        head_dim: width of one head.
        vocabulary: V.
        window: largest number of visible keys, the token's own included; ``None`` without a sliding
            window.
    """

    KIND: ClassVar[str] = "attention"
    SKIPPED: ClassVar[Mapping[str, Callable[[Any], int]]] = {
        "propagate": lambda costs: costs.kv_projections,
        "copy_kv": lambda costs: 0,  # copies only
    }

    n_layers: int
    width: int
    feedforward: int
    query_heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    window: int | None = None

    @classmethod
    def from_config(cls, config: Any) -> AttentionCosts:
        """Read the attributes of a transformers ``MistralConfig`` or ``LlamaConfig``."""
        heads: int = config.num_attention_heads
        kv_heads: int | None = getattr(config, "num_key_value_heads", None)
        head_dim: int | None = getattr(config, "head_dim", None)
        return cls(
            n_layers=config.num_hidden_layers,
            width=config.hidden_size,
            feedforward=config.intermediate_size,
            query_heads=heads,
            kv_heads=heads if kv_heads is None else kv_heads,
            head_dim=config.hidden_size // heads if head_dim is None else head_dim,
            vocabulary=config.vocab_size,
            window=getattr(config, "sliding_window", None),
        )

    @property
    def kv_projections(self) -> int:
        """The K and V projections."""
        return 2 * 2 * self.width * self.kv_heads * self.head_dim

    @property
    def projections(self) -> int:
        """The products that do not depend on the context: Q, K, V, output, gate, up and down."""
        attention = 2 * 2 * self.width * self.query_heads * self.head_dim
        return attention + self.kv_projections + 3 * 2 * self.width * self.feedforward

    @property
    def context_per_key(self) -> int:
        """Scores and weighted values, for one visible key."""
        return 2 * 2 * self.query_heads * self.head_dim

    def keys(self, position: int) -> int:
        """Keys visible to the token at ``position``, its own included."""
        return position + 1 if self.window is None else min(position + 1, self.window)

    def layer(self, position: int) -> int:
        """One layer for the token at ``position``, counted from 0."""
        return self.projections + self.context_per_key * self.keys(position)

    def prompt_layer(self, tokens: int) -> int:
        """One layer for positions 0..tokens-1, each at its real context."""
        growing = tokens if self.window is None else min(tokens, self.window)
        keys = growing * (growing + 1) // 2 + (tokens - growing) * (self.window or 0)
        return tokens * self.projections + self.context_per_key * keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Costs(LayerCosts):
    """A decoder of Mamba-2 blocks, counted in their recurrent form.

    A parallel scan computes more; it is billed as the recurrence, for exits and full depth alike,
    so that a number does not depend on how a prompt is divided into chunks.

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
    def advance(self) -> int:
        """The SSM state's step: decay, outer product, sum."""
        return _ADVANCE_OPS * self.inner * self.state_size

    @property
    def read_out(self) -> int:
        """The SSM's output: product with C, sum."""
        return _READ_OUT_OPS * self.inner * self.state_size

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

    def prompt_layer(self, tokens: int) -> int:
        """One layer for ``tokens`` positions, in recurrent form."""
        return tokens * self.layer(0)


class HeadCosts(NamedTuple):
    """FLOPs of the trained modules of one exit, for one token.

    Attributes:
        classifier: its norm and classifier, billed with each check of confidence ``head``.
        translator: billed whenever this exit's logits are computed: with each check that reads
            them, else with the emission.
    """

    classifier: int = 0
    translator: int = 0


class _Depth(NamedTuple):
    """FLOPs of a token in addition to its layers, when it exits at one depth."""

    checks: int
    projection: int
    propagation: int


class Ledger:
    """Bills answers under one exit policy.

    Args:
        costs: the architecture.
        exit_layers: ascending, each in 1..L-1; empty for full depth.
        confidence: the measure: its name if it is registered, or its facts.
        skipped_state: the skipped-state policy: its name, or its facts.
        exit_extras: what is trained for each exit; as long as ``exit_layers``, or empty for none.

    Raises:
        ValueError: exits out of range or order, an unknown measure, or a ``skipped_state`` that
            the architecture lacks.
    """

    def __init__(
        self,
        costs: DecoderCosts,
        *,
        exit_layers: Sequence[int] = (),
        confidence: str | MeasureFacts = "top_prob",
        skipped_state: str | SkippedFacts = "propagate",
        exit_extras: Sequence[HeadCosts] = (),
    ) -> None:
        exits = tuple(exit_layers)
        if list(exits) != sorted(set(exits)) or not all(0 < e < costs.n_layers for e in exits):
            raise ValueError(f"exits ascend within 1..{costs.n_layers - 1}, got {exits}")
        if len(exit_extras) not in {0, len(exits)}:
            raise ValueError(f"{len(exits)} exits but {len(exit_extras)} exit_extras")
        self._costs = costs
        self._recompute = bool(exits) and skipped_state == RECOMPUTE
        self._depths = self._costs_by_depth(exits, facts_of(confidence), skipped_state, exit_extras)

    def _costs_by_depth(
        self,
        exits: tuple[int, ...],
        measure: MeasureFacts,
        skipped_state: str | SkippedFacts,
        extras: Sequence[HeadCosts],
    ) -> dict[int, _Depth]:
        """By depth, an exit's or L, the FLOPs of a token in addition to its layers."""
        costs = self._costs
        emission = norm_flops(costs) + unembed_flops(costs)
        reads_logits = measure.reads == "logits"
        depths: dict[int, _Depth] = {}
        checks = 0
        for exit, layer in enumerate(exits):
            extra = extras[exit] if extras else HeadCosts()
            checks += measure.flops(Check(exit, costs.width, costs.vocabulary))
            if reads_logits:
                checks += emission + extra.translator
            elif measure.reads == "heads":
                checks += extra.classifier
            state = costs.states(skipped_state, layer)
            projection = 0 if reads_logits else emission + extra.translator
            depths[layer] = _Depth(checks, projection, state)
        depths[costs.n_layers] = _Depth(checks, emission, 0)
        return depths

    def answer(self, prompt_tokens: int, layers_used: Sequence[int]) -> FlopsBreakdown:
        """FLOPs of one answer, independent of its batch.

        Args:
            prompt_tokens: tokens prefilled at full depth: the prompt without its last token. The
                answer's token i is therefore emitted at position ``prompt_tokens + i``.
            layers_used: layers run for each of the answer's tokens: an exit's, or L.

        Raises:
            ValueError: a depth that is neither an exit nor L, or a negative ``prompt_tokens``.
        """
        if prompt_tokens < 0:
            raise ValueError(f"prompt_tokens is at least 0, got {prompt_tokens}")
        costs = self._costs
        layers = checks = projection = propagation = recomputation = full_depth = 0
        depths_at_end = (
            final_depths(layers_used, costs.n_layers) if self._recompute else layers_used
        )
        pairs = zip(layers_used, depths_at_end, strict=True)
        for position, (used, final) in enumerate(pairs, start=prompt_tokens):
            depth = self._depths.get(used)
            if depth is None:
                raise ValueError(f"a token exits at {sorted(self._depths)}, not at layer {used}")
            layers += costs.layers(position, 0, used)
            full_depth += costs.layers(position, 0, costs.n_layers)
            checks += depth.checks
            projection += depth.projection
            propagation += depth.propagation
            recomputation += costs.layers(position, used, final)
        full_depth += len(layers_used) * self._depths[costs.n_layers].projection
        return FlopsBreakdown(
            prompt=costs.prompt(prompt_tokens),
            layers=layers,
            checks=checks,
            projection=projection,
            propagation=propagation,
            recomputation=recomputation,
            full_depth=full_depth,
        )

    def at_full_depth(self, prompt_tokens: int, tokens: int) -> FlopsBreakdown:
        """The bill of an answer whose tokens run all layers and pass no exit.

        Args:
            prompt_tokens: as for :meth:`answer`.
            tokens: that the answer has.
        """
        costs = self._costs
        positions = range(prompt_tokens, prompt_tokens + tokens)
        layers = sum(costs.layers(position, 0, costs.n_layers) for position in positions)
        projection = tokens * self._depths[costs.n_layers].projection
        return FlopsBreakdown(
            prompt=costs.prompt(prompt_tokens),
            layers=layers,
            projection=projection,
            full_depth=layers + projection,
        )

    def lossless(
        self, prompt_tokens: int, rounds: Sequence[DraftRound], tokens: int
    ) -> FlopsBreakdown:
        """FLOPs of a lossless answer, independent of its batch; rejected tokens are billed.

        Args:
            prompt_tokens: as for :meth:`answer`.
            rounds: its drafts.
            tokens: number of tokens of the answer.
        """
        costs, top = self._costs, self._depths[self._costs.n_layers]
        layers = checks = projection = verification = 0
        for one in rounds:
            position = prompt_tokens + one.start
            for used in one.depths:
                depth = self._depths[used]
                layers += costs.layers(position, 0, used)
                checks += depth.checks
                projection += depth.projection
                verification += costs.layers(position, used, costs.n_layers) + top.projection
                position += 1
            if one.inputs > len(one.depths):  # no token was drafted after the last input
                layers += costs.layers(position, 0, costs.n_layers)
                checks += top.checks if one.checked else 0
                projection += top.projection
        positions = range(prompt_tokens, prompt_tokens + tokens)
        full_depth = sum(costs.layers(position, 0, costs.n_layers) for position in positions)
        return FlopsBreakdown(
            prompt=costs.prompt(prompt_tokens),
            layers=layers,
            checks=checks,
            projection=projection,
            verification=verification,
            full_depth=full_depth + tokens * top.projection,
        )
