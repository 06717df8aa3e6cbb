"""The exit rule of a run, from its results, and its name in words.

A rule from outside the package is not run, so that its thresholds are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamax_lm.core.thresholds import BUILT_IN, PLAIN, ThresholdRule, make_rule


def threshold_text(settings: Mapping[str, Any]) -> str:
    """The threshold or rule, in words."""
    threshold = settings.get("threshold")
    text = "+".join(map(str, threshold)) if isinstance(threshold, list) else str(threshold)
    if not settings.get("exit_rule"):
        return text
    arguments = settings.get("exit_rule_args") or {}
    words = " ".join(f"{name} {value:g}" for name, value in arguments.items())
    return f"{settings['exit_rule']} {text}" + (f" ({words})" if words else "")


def number_of(settings: Mapping[str, Any]) -> float:
    """The threshold, for ordering runs; the least one where each exit has its own."""
    threshold = settings["threshold"]
    return float(min(threshold) if isinstance(threshold, list) else threshold)


def is_known(settings: Mapping[str, Any]) -> bool:
    """Whether the rule is one of the package's."""
    return (settings.get("exit_rule") or PLAIN) in {PLAIN, *BUILT_IN}


def rule_of(settings: Mapping[str, Any]) -> ThresholdRule | None:
    """The rule of a run; ``None`` for one threshold at every exit and step.

    Raises:
        ValueError: no such rule, or arguments that it does not take.
    """
    name = str(settings.get("exit_rule") or PLAIN)
    return make_rule(name, settings["threshold"], settings.get("exit_rule_args") or {})
