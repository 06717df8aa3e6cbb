"""From the ``prompt_maps`` setting to the maps of a model, in two steps, as for trained heads.

Their configuration is checked before the backbone's weights load; their tensors load, and the
backbone's fingerprint is compared, afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamax_lm.decoders.description import text_config
from dynamax_lm.heads.backbone_check import check_named, check_shape
from dynamax_lm.heads.prompt_map_config import PromptMapsConfig
from dynamax_lm.heads.prompt_maps import PromptMapBank
from dynamax_lm.heads.store import find_folder, read_config_as
from dynamax_lm.settings import PromptMapsFacts


@dataclass(frozen=True, slots=True)
class ChosenMaps:
    """Maps whose configuration fits the backbone's.

    Attributes:
        folder: of their files.
        config: their configuration.
        facts: for the settings.
    """

    folder: Path
    config: PromptMapsConfig
    facts: PromptMapsFacts

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
        known: maps found before; under the same name their files are not located again, but their
            configuration is read again.

    Raises:
        SettingError: maps that cannot be read, or of another backbone.
    """
    if name is None:
        return None
    if known is not None and known.facts.name == name:
        folder = known.folder
    else:
        folder = find_folder(name, PromptMapsConfig)
    maps = read_config_as(PromptMapsConfig, folder)
    check_shape(maps, config)
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
    maps = PromptMapBank.load(chosen.folder)
    unembedding = model.get_output_embeddings().weight
    check_named(maps.config, chosen.facts.name, text_config(model.config), unembedding)
    return maps.to(unembedding.device)
