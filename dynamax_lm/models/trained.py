"""From the ``heads`` setting to the trained heads of a model, in the two steps of `chosen`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynamax_lm.common.certificate import Certificate, CertificateError
from dynamax_lm.core.ledger import HeadCosts
from dynamax_lm.decoders.checkpoint import TINY
from dynamax_lm.heads import ExitHeads, HeadsConfig
from dynamax_lm.heads.backbone_check import BackboneMatch
from dynamax_lm.heads.shipped import shipped_folder
from dynamax_lm.models.chosen import Chosen, find, on_backbone
from dynamax_lm.settings import HeadsFacts, RawSettings
from dynamax_lm.settings.exits import Spread

_log = logging.getLogger("lm_eval.dynamax_lm")


class ChosenHeads(Chosen[HeadsConfig, HeadsFacts]):
    """Heads whose configuration fits the backbone's."""

    def describe(self) -> dict[str, Any]:
        """Their entry in a results file."""
        config = self.config
        return {
            "name": self.facts.name,
            "fingerprint": self.facts.fingerprint,
            "classifier": config.classifier,
            "classifier_width": config.classifier_width,
            "translator": config.translator,
            "label": config.label if config.label == "top1" else f"top_{config.label_k}",
            "exit_layers": list(config.exit_layers),
        }


def choose_heads(
    raw: RawSettings,
    *,
    embedded: str | None,
    config: Any,
    known: ChosenHeads | None = None,
) -> ChosenHeads | None:
    """The heads of a run, from configurations alone.

    Args:
        raw: the settings as given.
        embedded: which embedded model the checkpoint is, if any.
        config: the backbone's transformers configuration.
        known: heads found before.

    Returns:
        ``None`` for a run without heads: none are given, and none are shipped for this checkpoint,
        or those shipped have no head at a given exit.

    Raises:
        SettingError: heads that cannot be read, or of another backbone.
    """
    name = raw.heads
    if name is None and not raw.heads_chosen and embedded is not None:
        own = f"{TINY}-{embedded}"
        name = own if shipped_folder(own) is not None else None
    if name is None:
        return None
    shipped = None if Path(name).is_dir() else shipped_folder(name)
    folder, heads = find(HeadsConfig, name, config, known, shipped=shipped)
    certificate, fault = _certificate_of(heads)
    facts = HeadsFacts(
        name=name,
        exit_layers=heads.exit_layers,
        has_classifier=heads.has_classifier,
        certified=None if certificate is None else certificate.threshold,
        certified_confidence=None if certificate is None else certificate.setting.confidence,
        certificate_fault=fault,
        fingerprint=heads.identity,
    )
    if fault is not None and raw.threshold is None:
        _log.warning("heads=%s: no threshold is taken from its certificate: %s", name, fault)
    if not raw.heads_chosen and not _fits(raw, config.num_hidden_layers, facts):
        _log.info("exit_layers are not those of %s, which is ignored: no heads", name)
        return None
    return ChosenHeads(folder, heads, facts)


def _certificate_of(heads: HeadsConfig) -> tuple[Certificate | None, str | None]:
    """The certificate in the heads' configuration, or the fault in it."""
    if heads.certificate is None:
        return None, None
    try:
        return Certificate.from_json(heads.certificate), None
    except CertificateError as error:
        return None, str(error)


def _fits(raw: RawSettings, n_layers: int, facts: HeadsFacts) -> bool:
    """Whether every given exit has a head; these heads are a default."""
    placed = raw.exit_layers.place(n_layers)
    return isinstance(raw.exit_layers, Spread) or set(placed) <= set(facts.exit_layers)


class LoadedHeads(NamedTuple):
    """Heads, and how the loaded backbone was recognised as theirs."""

    heads: ExitHeads
    match: BackboneMatch

    @property
    def config(self) -> HeadsConfig:
        """Of the heads' files."""
        return self.heads.config

    def describe(self) -> dict[str, Any]:
        """The backbone's part of their entry in a results file."""
        return {"backbone": self.match.kind, "backbone_difference": self.match.difference}


def load_heads(chosen: ChosenHeads, model: Any) -> LoadedHeads:
    """Load the tensors, and compare the recorded unembedding with the loaded backbone's.

    Args:
        chosen: from :func:`choose_heads`.
        model: the loaded backbone.

    Raises:
        SettingError: files that are truncated or changed, or heads of another backbone.
    """
    return LoadedHeads(
        *on_backbone(ExitHeads.from_pretrained(chosen.folder), chosen.facts.name, model)
    )


def exit_extras(heads: ExitHeads | None, exit_layers: Sequence[int]) -> list[HeadCosts]:
    """The costs of the heads at each exit, for the ledger."""
    if heads is None:
        return []
    return [
        HeadCosts(heads.classifier_flops(layer), heads.translator_flops(layer))
        for layer in exit_layers
    ]
