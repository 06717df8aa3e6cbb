"""From the ``prompt_maps`` setting to the maps of a model, in the two steps of `chosen`."""

from __future__ import annotations

from typing import Any

from dynamax_lm.heads.prompt_map_config import PromptMapsConfig
from dynamax_lm.heads.prompt_maps import PromptMapBank
from dynamax_lm.models.chosen import Chosen, find, on_backbone
from dynamax_lm.settings import PromptMapsFacts


class ChosenMaps(Chosen[PromptMapsConfig, PromptMapsFacts]):
    """Maps whose configuration fits the backbone's."""

    def describe(self) -> dict[str, Any]:
        """Their entry in a results file."""
        config = self.config
        return {
            "name": self.facts.name,
            "fingerprint": self.facts.fingerprint,
            "prompt_exit": config.prompt_exit,
            "group": config.group,
            "translator": config.translator,
            "translator_rank": config.translator_rank,
        }


def choose_maps(
    name: str | None, config: Any, known: ChosenMaps | None = None
) -> ChosenMaps | None:
    """The maps of a run, from their configuration alone.

    Args:
        name: folder or hub id, or ``None`` for none.
        config: the backbone's transformers configuration.
        known: maps found before.

    Raises:
        SettingError: maps that cannot be read, or of another backbone.
    """
    if name is None:
        return None
    folder, maps = find(PromptMapsConfig, name, config, known)
    facts = PromptMapsFacts(name=name, prompt_exit=maps.prompt_exit, fingerprint=maps.identity)
    return ChosenMaps(folder, maps, facts)


def load_maps(chosen: ChosenMaps, model: Any) -> PromptMapBank:
    """Load the tensors, and compare the fingerprint with the loaded backbone's.

    Args:
        chosen: from :func:`choose_maps`.
        model: the loaded backbone.

    Raises:
        SettingError: files that are truncated or changed, or maps of another backbone.
    """
    return on_backbone(PromptMapBank.load(chosen.folder), chosen.facts.name, model)[0]
