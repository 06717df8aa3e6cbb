"""The argument ``skipped_state``: a policy of the package, a file or an installed package."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any, Literal

from dynamax_lm.common.errors import error_line
from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.costs import LayerCosts, skipped_states
from dynamax_lm.core.skipped_states import (
    SkippedFacts,
    SkippedState,
    register_skipped_state,
    registered,
)
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.models.settings.classes import load_class, read_class
from dynamax_lm.models.settings.values import refusal

Architecture = Literal["attention", "mamba2"]

NAME = "skipped_state"
GROUP = "dynamax_lm.skipped_state"
"""Entry points whose classes are skipped-state policies."""

DEFAULT = "propagate"

_LAYERS: dict[Architecture, type[LayerCosts]] = {
    "attention": AttentionCosts,
    "mamba2": Mamba2Costs,
}
_BUILT_IN = (*dict.fromkeys(name for one in _LAYERS.values() for name in one.SKIPPED), RECOMPUTE)
_HOLE = "on attention it would leave a silent hole in each skipped layer's cache"
_IMPOSSIBLE = {
    ("attention", "freeze"): _HOLE,
    ("mamba2", "copy_kv"): "Mamba-2 layers have no K and V to copy",
}
"""Why a kind of layer lacks a policy, where there is a reason."""


def read_skipped_state(value: object) -> str | None:
    """A policy as written, or ``None`` where none was given; runs no code.

    Raises:
        SettingError: no such policy.
    """
    return read_class(NAME, value, _BUILT_IN, GROUP)


def find_skipped_state(written: str, architecture: Architecture) -> str:
    """The name of a policy that these layers have, registered if it is from outside.

    Raises:
        SettingError: these layers do not have it, its code cannot be loaded, or is not a policy.
    """
    kind = _LAYERS[architecture]
    *others, last = had = skipped_states(kind)
    if written in had:
        return written
    if written in _BUILT_IN:
        why = _IMPOSSIBLE.get((architecture, written), "these layers do not have it")
        raise refusal(NAME, written, f"{why}; use {', '.join(others)} or {last}")
    known = load_class(NAME, written, GROUP)
    name, made = known.name, known.made
    facts = getattr(made, "facts", None)
    if not isinstance(facts, SkippedFacts):
        why = "the class lacks facts = SkippedFacts(layers=(AttentionCosts,), flops=...)"
        raise refusal(NAME, written, why)
    if fault := _fault(made, facts, kind):
        raise refusal(NAME, written, fault)
    if registered(name) is None:
        register_skipped_state(replace(facts, name=name), made())
    return name


def _fault(made: type[Any], facts: SkippedFacts, kind: type[LayerCosts]) -> str | None:
    """Why layers of this kind cannot have a policy from outside, or ``None``."""
    if facts.name:
        return f"its facts have the name {facts.name}; leave the name out"
    if not issubclass(kind, facts.layers):
        has = ", ".join(getattr(one, "KIND", one.__name__) for one in facts.layers)
        return f"it is for layers of {has}, and these are of {kind.KIND}"
    if facts.shorter and kind is AttentionCosts:
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
