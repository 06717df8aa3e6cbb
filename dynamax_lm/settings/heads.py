"""Defaults and refusals of settings that follow from the configuration of trained heads."""

from __future__ import annotations

from dataclasses import dataclass

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings.exits import ExitPlacement, Spread
from dynamax_lm.settings.values import refusal

CERTIFIED = "certified"
"""Denotes the threshold of the heads' certificate."""

_DEFAULT_CONFIDENCE = "top_prob"
DEFAULT_THRESHOLD = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsFacts:
    """Facts of trained heads that settings depend on.

    Attributes:
        name: folder, hub id, or the name of shipped heads.
        exit_layers: ascending.
        has_classifier: whether ``confidence=head`` is available.
        certified: the certified threshold, or ``None``.
        certified_confidence: the measure it was certified for, or ``None``.
        certificate_fault: why their certificate is invalid, or ``None``.
        fingerprint: identifies everything of them that can change a number.
    """

    name: str
    exit_layers: tuple[int, ...]
    has_classifier: bool
    certified: float | None = None
    certified_confidence: str | None = None
    certificate_fault: str | None = None
    fingerprint: str = ""


def choose_confidence(given: str | None, heads: HeadsFacts | None) -> str:
    """The measure: the one given, else the heads' classifier, else the largest probability.

    Raises:
        SettingError: ``head`` without a classifier.
    """
    if given == "head" and heads is None:
        why = "needs trained heads; give heads=FOLDER_OR_HUB_ID, or another measure"
        raise refusal("confidence", given, why)
    if given == "head" and heads is not None and not heads.has_classifier:
        why = f"{heads.name} has translators but no classifier; choose another measure"
        raise refusal("confidence", given, why)
    if given is not None:
        return given
    return "head" if heads is not None and heads.has_classifier else _DEFAULT_CONFIDENCE


def choose_threshold(
    given: float | tuple[float, ...] | str | None, confidence: str, heads: HeadsFacts | None
) -> float | tuple[float, ...]:
    """The threshold: the one given, else the certified one for this measure, else 0.9.

    Raises:
        SettingError: ``certified`` without a certified threshold, or with an invalid certificate.
    """
    if isinstance(given, (float, tuple)):
        return given
    if given is None:
        if heads is None or heads.certified is None:
            return DEFAULT_THRESHOLD
        if heads.certified_confidence != confidence:
            return DEFAULT_THRESHOLD
    if heads is None:
        why = "needs heads that carry a certificate; give heads=FOLDER_OR_HUB_ID, or a number"
        raise refusal("threshold", CERTIFIED, why)
    if heads.certificate_fault is not None:
        raise refusal("threshold", CERTIFIED, f"{heads.name}: {heads.certificate_fault}")
    if heads.certified is None:
        why = f"{heads.name} carries no certified threshold; run dynamax_lm.certify, or give one"
        raise refusal("threshold", CERTIFIED, why)
    return heads.certified


def place_exits(rule: ExitPlacement, n_layers: int, heads: HeadsFacts | None) -> tuple[int, ...]:
    """The exits: by default those of the heads; given ones must be among these.

    Raises:
        SettingError: the rule does not fit the model or the heads.
    """
    if heads is None:
        return rule.place(n_layers)
    if isinstance(rule, Spread):
        return heads.exit_layers
    exits = rule.place(n_layers)
    if strangers := [layer for layer in exits if layer not in heads.exit_layers]:
        raise SettingError(
            f"exit_layers={list(exits)[:8]}: {heads.name} has no head after layer {strangers[0]}; "
            f"choose among {list(heads.exit_layers)[:40]}, or heads=none"
        )
    return exits
