"""Prompt maps: estimates of the inputs of skipped layers for prompt tokens that exit.

Under ``prompt_exit`` the layers above get their state from the hidden state at the exit. A map of
it, one for each group of layers, is nearer to what these layers would have read. Maps are
translators (``heads.translators``) whose target is a layer's input in place of the last layer's
output.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from dynamax_lm.heads import store
from dynamax_lm.heads.prompt_map_config import PromptMapsConfig
from dynamax_lm.heads.translators import Translator, make_translator, without_autocast


class PromptMapBank(nn.Module):
    """The maps of one prompt exit (``core.prompt_maps.PromptMaps``).

    Args:
        config: of the maps, which start as the identity.
    """

    def __init__(self, config: PromptMapsConfig) -> None:
        super().__init__()
        self.config = config
        self.maps = nn.ModuleDict(
            {_name(layers): make_translator(config) for layers in config.groups}
        )

    @property
    def identity(self) -> str:
        """A digest of all that can change a number."""
        return self.config.identity

    @property
    def prompt_exit(self) -> int:
        """Layers that the mapped tokens ran."""
        return self.config.prompt_exit

    @property
    def flops(self) -> int:
        """FLOPs of all maps for one prompt token."""
        return sum(self.map_of(layers).flops for layers in self.config.groups)

    def map_of(self, layers: range) -> Translator:
        """The map of a group of ``config.groups``."""
        found = self.maps[_name(layers)]
        assert isinstance(found, Translator)
        return found

    @torch.no_grad()
    def inputs(self, hidden: Tensor) -> Iterator[Tensor]:
        """(M, D) the input of each skipped layer, bottom to top, in the dtype of ``hidden``.

        Args:
            hidden: (M, D) at the prompt exit.
        """
        yield hidden
        device = next(self.parameters()).device
        wide = hidden.to(device, torch.float32)
        for layers in self.config.groups:
            with without_autocast(device):
                mapped: Tensor = self.map_of(layers)(wide)
            own = mapped.to(hidden.device, hidden.dtype)
            for _ in layers:
                yield own

    def save(self, folder: Path, card: str) -> None:
        """Save as a folder of safetensors, configuration and card, whole or not at all.

        Raises:
            SettingError: the folder cannot be written.
        """
        self.config = store.write_folder(folder, self.config, self.state_dict(), card)

    @classmethod
    def load(cls, folder: Path) -> PromptMapBank:
        """The maps in ``folder``.

        Raises:
            SettingError: files that are missing, truncated, changed or of another shape.
        """
        config = store.read_config_as(PromptMapsConfig, folder)
        return store.filled(lambda: cls(config), folder, config).requires_grad_(False)


def _name(layers: range) -> str:
    """A group by its first layer."""
    return str(layers.start)
