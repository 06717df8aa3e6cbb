"""FLOPs of a decoder's parts: the protocol that the ledger reads, and sums over kinds of layers.

Imports no torch, and knows no kind of layer: each has its costs beside its adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.skipped_states import SkippedFacts, for_kind, lacking, registered

_NORM_OPS = 4  # square, sum, scale, weight


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

    @property
    def kinds(self) -> tuple[LayerCosts, ...]:
        """Of each layer, the costs of its kind."""
        ...

    @property
    def parts(self) -> tuple[LayerCosts, ...]:
        """The kinds of layer that have a state, each once."""
        ...

    def layers(self, position: int, first: int, last: int) -> int:
        """Layers ``first``..``last - 1``, from 0, for the token at ``position``, from 0."""
        ...

    def prompt(self, tokens: int, layers: int | None = None) -> int:
        """The first ``layers``, by default all, for positions 0..tokens-1; no projection."""
        ...

    def states(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """The state of the skipped layers ``first``..L-1 for one token.

        Raises:
            ValueError: one of these layers has no such ``skipped_state``.
        """
        ...

    def states_per_key(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """What :meth:`states` grows by with each token up to and including this one."""
        ...


class LayerCosts:
    """FLOPs of one kind of layer, and of a decoder whose layers are all of this kind.

    A subclass is a frozen dataclass of a configuration's numbers. It gives ``layer``,
    ``prompt_layer`` and ``SKIPPED``; the sums over layers follow.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Square(LayerCosts):
    ...     KIND, SKIPPED = "square matrix", {"propagate": lambda costs: 0}
    ...     n_layers: int
    ...     width: int
    ...     vocabulary: int
    ...     def layer(self, position):
    ...         return 2 * self.width**2
    ...     def prompt_layer(self, tokens):
    ...         return tokens * self.layer(0)
    >>> Square(n_layers=2, width=8, vocabulary=32).layer(0)
    128

    Attributes:
        KIND: the kind's name in error messages.
        KEY: its name in a skipped state given by kind, such as ``attention:copy_kv``.
        SKIPPED: by name of a skipped-state policy, the FLOPs of one skipped layer's state for one
            token. Settings and decoders read the names of a kind of layer here.
        n_layers: L, at least 1.
        width: D.
        vocabulary: V.
    """

    __slots__ = ()
    KIND: ClassVar[str]
    KEY: ClassVar[str] = ""
    SKIPPED: ClassVar[Mapping[str, Callable[[Any], int]]]
    n_layers: int
    width: int
    vocabulary: int

    @property
    def kinds(self) -> tuple[LayerCosts, ...]:
        """Of each layer, the costs of its kind."""
        return (self,) * self.n_layers

    @property
    def parts(self) -> tuple[LayerCosts, ...]:
        """The parts of a layer that have a state, for skipped-state policies."""
        return (self,)

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
        if isinstance(skipped_state, str):
            skipped_state = for_kind(skipped_state, self.KEY)
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
        raise lacking(self.KIND, name)

    def skipped_per_key(self, skipped_state: str | SkippedFacts) -> int:
        """What :meth:`skipped` grows by with each token up to and including this one."""
        del skipped_state
        return 0

    def layers(self, position: int, first: int, last: int) -> int:
        """Layers ``first``..``last - 1`` for the token at ``position``."""
        return (last - first) * self.layer(position)

    def prompt(self, tokens: int, layers: int | None = None) -> int:
        """The first ``layers``, by default all, for positions 0..tokens-1 at their contexts."""
        return (self.n_layers if layers is None else layers) * self.prompt_layer(tokens)

    def states(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """The state of layers ``first``..L-1 for one token."""
        return (self.n_layers - first) * self.skipped(skipped_state)

    def states_per_key(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """What :meth:`states` grows by with each token up to and including this one."""
        return (self.n_layers - first) * self.skipped_per_key(skipped_state)


@dataclass(frozen=True, slots=True)
class HybridCosts:
    """A decoder whose layers are of several kinds.

    Attributes:
        kinds: of each layer, the costs of its kind, all of one width and vocabulary; the
            ``n_layers`` of a kind is not read.
    """

    kinds: tuple[LayerCosts, ...]

    @property
    def parts(self) -> tuple[LayerCosts, ...]:
        """The parts of all layers that have a state, each kind of them once."""
        return tuple(dict.fromkeys(part for kind in self.kinds for part in kind.parts))

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

    def prompt(self, tokens: int, layers: int | None = None) -> int:
        """The first ``layers``, by default all, for positions 0..tokens-1."""
        return sum(kind.prompt_layer(tokens) for kind in self.kinds[:layers])

    def states(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """The state of layers ``first``..L-1 for one token.

        Raises:
            ValueError: one of these layers has no such ``skipped_state``.
        """
        return sum(kind.skipped(skipped_state) for kind in self.kinds[first:])

    def states_per_key(self, skipped_state: str | SkippedFacts, first: int) -> int:
        """What :meth:`states` grows by with each token up to and including this one."""
        return sum(kind.skipped_per_key(skipped_state) for kind in self.kinds[first:])


def costs_of_layers(kinds: Sequence[LayerCosts]) -> DecoderCosts:
    """The costs of a decoder.

    Args:
        kinds: of each layer, at least one; their ``n_layers`` is not read.

    Raises:
        ValueError: layers of different widths.
    """
    if len(set(kinds)) == 1:
        alone: Any = kinds[0]
        costs: LayerCosts = replace(alone, n_layers=len(kinds))
        return costs
    return HybridCosts(tuple(kinds))


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
