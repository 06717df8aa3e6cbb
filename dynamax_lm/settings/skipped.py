"""The argument ``skipped_state``: a policy of the package, a file or an installed package."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

from dynamax_lm.common.errors import error_line
from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.costs import DecoderCosts, HybridCosts, LayerCosts, skipped_states
from dynamax_lm.core.skipped_states import (
    SkippedFacts,
    SkippedState,
    by_kind,
    for_kind,
    register_skipped_state,
    registered,
)
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba import MambaCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.settings.classes import load_class, read_class
from dynamax_lm.settings.values import refusal

Architecture = Literal["attention", "mamba2"]

NAME = "skipped_state"
GROUP = "dynamax_lm.skipped_state"
"""Entry points whose classes are skipped-state policies."""

DEFAULT = "propagate"

_KINDS: dict[str, type[LayerCosts]] = {
    one.KEY: one for one in (AttentionCosts, Mamba2Costs, MambaCosts)
}
_BUILT_IN = (*dict.fromkeys(name for one in _KINDS.values() for name in one.SKIPPED), RECOMPUTE)
_HOLE = "on attention it would leave a silent hole in each skipped layer's cache"
_IMPOSSIBLE = {
    ("attention", "freeze"): _HOLE,
    ("mamba2", "copy_kv"): "Mamba-2 layers have no K and V to copy",
    ("mamba", "copy_kv"): "Mamba-1 layers have no K and V to copy",
}
"""Why a kind of layer lacks a policy, where there is a reason."""


def read_skipped_state(value: object) -> str | None:
    """A policy as written, or ``None`` where none was given; runs no code.

    Policies by kind, such as ``attention:copy_kv+mamba2:freeze``, are returned in one order.

    Raises:
        SettingError: no such policy.
    """
    known = by_kind(value.strip()) if isinstance(value, str) else {}
    if not isinstance(value, str) or not any(kind in _KINDS for kind in known):
        return read_class(NAME, value, _BUILT_IN, GROUP)
    for kind, policy in known.items():
        if kind not in _KINDS:
            raise refusal(NAME, value, f"kinds of layer are {', '.join(_KINDS)}")
        if policy not in _KINDS[kind].SKIPPED:
            why = _IMPOSSIBLE.get((kind, policy), f"{kind} has {', '.join(_KINDS[kind].SKIPPED)}")
            raise refusal(NAME, value, why)
    if len(known) < value.count("+") + 1:
        raise refusal(NAME, value, "a kind is given twice")
    return "+".join(f"{kind}:{known[kind]}" for kind in _KINDS if kind in known)


def find_skipped_state(written: str, architecture: Architecture | DecoderCosts) -> str:
    """The name of a policy that these layers have, registered if it is from outside.

    Args:
        written: of :func:`read_skipped_state`.
        architecture: the kind of all layers, or the costs of a decoder, which tell its kinds.

    Raises:
        SettingError: these layers do not have it, its code cannot be loaded, or is not a policy.
    """
    kinds = _kinds_of(architecture)
    *others, last = had = skipped_states(*kinds)
    if written in had:
        return written
    if known := by_kind(written):
        name = _for_these(written, known, [kind.KEY for kind in kinds])
        _check_layers(written, name, architecture)
        return name
    if written in _BUILT_IN:
        reasons = [_IMPOSSIBLE.get((kind.KEY, written)) for kind in kinds]
        why = next((reason for reason in reasons if reason), "these layers do not have it")
        use = f"use {', '.join(others)} or {last}"
        if len(kinds) > 1:
            use += f", or one for each kind, as {_example(kinds)}"
        raise refusal(NAME, written, f"{why}; {use}")
    outside = load_class(NAME, written, GROUP)
    name, made = outside.name, outside.made
    facts = getattr(made, "facts", None)
    if not isinstance(facts, SkippedFacts):
        why = "the class lacks facts = SkippedFacts(layers=(AttentionCosts,), flops=...)"
        raise refusal(NAME, written, why)
    for kind in kinds:
        if fault := _fault(made, facts, kind):
            raise refusal(NAME, written, fault)
    if not isinstance(architecture, str) and len({facts.flops(p) for p in architecture.parts}) > 1:
        raise refusal(NAME, written, "its flops differ between the layers of this checkpoint")
    _check_layers(written, facts, architecture)
    if registered(name) is None:
        register_skipped_state(replace(facts, name=name), made())
    return name


def _check_layers(
    written: str, policy: str | SkippedFacts, architecture: Architecture | DecoderCosts
) -> None:
    """Refuse a policy that some layer lacks as a whole, though each part of the layer has it.

    Raises:
        SettingError: with the reason that the layer's costs give.
    """
    if isinstance(architecture, str):
        return
    try:
        architecture.states(policy, 0)
    except ValueError as error:
        raise refusal(NAME, written, str(error)) from None


def check_source(
    name: str, architecture: Architecture | DecoderCosts, exits: Sequence[int]
) -> None:
    """Refuse copies where no attention layer runs before an exit: there is nothing to copy.

    Raises:
        SettingError: naming the first attention layer.
    """
    if not isinstance(architecture, HybridCosts) or not exits:
        return
    attention = [any(part.KEY == "attention" for part in one.parts) for one in architecture.kinds]
    if not any(attention) or for_kind(name, "attention") != "copy_kv":
        return
    first = attention.index(True) + 1
    if min(exits) < first:
        why = f"the first attention layer is {first}; let exit_layers start there or above"
        raise refusal(NAME, name, why)


def _kinds_of(architecture: Architecture | DecoderCosts) -> list[type[LayerCosts]]:
    """The kinds of layer that have a state."""
    if isinstance(architecture, str):
        return [_KINDS[architecture]]
    return list(dict.fromkeys(type(part) for part in architecture.parts))


def _for_these(written: str, known: Mapping[str, str], kinds: Sequence[str]) -> str:
    """A policy for each of ``kinds`` and no other; where all are of one name, that name."""
    if set(known) != set(kinds):
        why = f"this checkpoint has layers of {' and '.join(kinds)}; give each of them a policy"
        raise refusal(NAME, written, why)
    names = set(known.values())
    return names.pop() if len(names) == 1 else written


def _example(kinds: Sequence[type[LayerCosts]]) -> str:
    return "+".join(f"{kind.KEY}:{list(kind.SKIPPED)[-1]}" for kind in kinds)


def _fault(made: type[Any], facts: SkippedFacts, kind: type[LayerCosts]) -> str | None:
    """Why layers of this kind cannot have a policy from outside, or ``None``."""
    if facts.name:
        return f"its facts have the name {facts.name}; leave the name out"
    if not issubclass(kind, facts.layers):
        has = ", ".join(getattr(one, "KIND", one.__name__) for one in facts.layers)
        return f"it is for layers of {has}, and these are of {kind.KIND}"
    if facts.shorter and issubclass(kind, AttentionCosts):
        return f"shorter=True: {_HOLE}"
    if getattr(made, "skip", SkippedState.skip) is SkippedState.skip:
        return "the class lacks skip(self, layer, state, below, context)"
    try:
        inspect.signature(made().skip).bind("layer", "state", "below", "context")
    except Exception as error:  # any error of the class's code
        return f"it is called as CLASS().skip(layer, state, below, context): {error_line(error)}"
    some: Any = kind
    try:
        flops = facts.flops(some(**{one.name: 1 for one in fields(some)}))
    except Exception as error:  # likewise
        return f"its flops fail for layers of {kind.KIND}: {error_line(error)}"
    if type(flops) is not int or flops < 0:
        return f"its flops are {flops!r}; give a count, such as costs.skipped('{DEFAULT}')"
    return None
