"""Skipped-state policies from outside the package: their facts, and the one registry.

Ledger, settings, decoders and reports read the registry, so it imports no torch. The package's own
policies are in the tables of their layers and costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

PROMPT_STATE = "propagate"
"""The policy for the layers that prompt tokens skip; every kind of layer has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFacts:
    """Facts of a policy that the ledger, the settings and reports use.

    >>> from dynamax_lm import AttentionCosts
    >>> facts = SkippedFacts(layers=(AttentionCosts,), flops=lambda costs: costs.kv_projections)
    >>> facts.shorter
    False

    Attributes:
        name: omitted in a class; policies are named after their file or entry point.
        layers: cost classes of the kinds of layer that it is for, such as ``AttentionCosts``.
        flops: FLOPs of one skipped layer for one token, from that layer's costs.
        shorter: whether the state of a skipped layer omits the token, as under ``freeze``. The
            cache of attention layers has every token.
    """

    name: str = ""
    layers: tuple[type[Any], ...]
    flops: Callable[[Any], int]
    shorter: bool = False

    def __post_init__(self) -> None:
        classes = isinstance(self.layers, tuple) and all(isinstance(o, type) for o in self.layers)
        if not classes or not self.layers:
            raise ValueError("layers is a tuple of cost classes, such as (AttentionCosts,)")

    def record(self, costs: Any) -> dict[str, Any]:
        """The entry of a results file for the policy, for layers of these ``costs``."""
        return {"name": self.name, "flops": self.flops(costs)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SkippedFacts:
        """The facts from a results file; valid for the layers of its run.

        Raises:
            ValueError: a value is missing, or is not one that :meth:`record` writes.
        """
        name, count = record.get("name"), record.get("flops")
        if not isinstance(name, str) or type(count) is not int or count < 0:
            raise ValueError("a skipped-state policy has a name, and its flops are a count")
        return cls(name=name, layers=(object,), flops=lambda costs: count)


class SkippedState:
    """A skipped-state policy; made once, without arguments.

    >>> from dynamax_lm import AttentionCosts
    >>> class Own(SkippedState):
    ...     facts = SkippedFacts(layers=(AttentionCosts,), flops=lambda costs: costs.kv_projections)
    ...     def skip(self, layer, state, below, context):
    ...         return layer.propagate(state, below, context)

    Attributes:
        facts: name, layers and costs.
    """

    facts: ClassVar[SkippedFacts]

    def skip(self, layer: Any, state: Any, below: Any, context: Any) -> Any:
        """Fill one layer's state for the tokens that exited below it.

        Args:
            layer: the adapter, with the package's policies for it as methods, such as
                ``layer.propagate(state, below, context)``.
            state: this layer's, to be written.
            below: of the layer below, ``None`` for the first. In generation it may include the
                next token of the row already: skipped layers are filled when it reaches them.
            context: of the pass; ``context.run.frozen`` are the token slots (M,) that exited, and
                ``context.run.frozen_hidden`` (M, D) their hidden states at the exit.

        Returns:
            Inputs that ``layer.run`` adds to those of the running tokens; ``None`` for none.
        """
        raise NotImplementedError


class Registered(NamedTuple):
    """A policy, and its facts with its name in results."""

    facts: SkippedFacts
    policy: SkippedState


_POLICIES: dict[str, Registered] = {}


def register_skipped_state(facts: SkippedFacts, policy: SkippedState) -> None:
    """Register a policy by the name in its facts.

    Raises:
        ValueError: the name is taken, or empty.
    """
    if not facts.name or facts.name in _POLICIES:
        raise ValueError(f"a policy needs a name of its own, and {facts.name!r} is none")
    _POLICIES[facts.name] = Registered(facts, policy)


def registered(name: str) -> Registered | None:
    """The policy of that name from outside the package, if one is registered."""
    return _POLICIES.get(name)


def is_outside(name: str) -> bool:
    """Whether the policy of that name, or one that it gives by kind, is registered."""
    return any(registered(one) for one in (name, *by_kind(name).values()))


def lacking(kind: str, name: str) -> ValueError:
    """The error line for a policy that a kind of layer does not have.

    Args:
        kind: its name in error messages.
        name: of the policy.
    """
    how = ""
    if name.partition("@")[0].rpartition(":")[0].endswith(".py") and registered(name) is None:
        how = f"; give the name that dynamax_lm.find_skipped_state({name!r}, stack.costs) returns"
    return ValueError(f"{kind} has no skipped_state {name!r}{how}")


def by_kind(name: str) -> dict[str, str]:
    """The policy of each kind of layer, of ``attention:copy_kv+mamba2:freeze``; else empty."""
    pieces = [piece.partition(":") for piece in name.split("+")]
    if not all(colon and kind.isidentifier() and policy for kind, colon, policy in pieces):
        return {}
    if "." in name or "/" in name or "@" in name:  # a file or an installed class
        return {}
    return {kind: policy for kind, _, policy in pieces}


def for_kind(name: str, kind: str) -> str:
    """The policy of layers of ``kind`` (``LayerCosts.KEY``) under ``name``.

    Raises:
        ValueError: ``name`` gives policies by kind, and none for this one.
    """
    known = by_kind(name)
    if not known:
        return name
    if kind not in known:
        raise ValueError(
            f"skipped_state {name!r} has no policy for layers of {kind or 'this kind'}"
        )
    return known[kind]
