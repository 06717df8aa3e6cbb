"""Prompt tokens that exit: where, and the protocol of trained maps for the layers above.

Maps give each skipped layer an estimate of its input from the hidden state at the exit, where the
layers otherwise read that hidden state itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor


class PromptMaps(Protocol):
    """Maps of one prompt exit."""

    @property
    def identity(self) -> str:
        """A digest of all that can change a number."""
        ...

    @property
    def prompt_exit(self) -> int:
        """Layers that the mapped tokens ran."""
        ...

    @property
    def flops(self) -> int:
        """FLOPs of all maps for one prompt token."""
        ...

    def inputs(self, hidden: Tensor) -> Iterator[Tensor]:
        """(M, D) the input of each skipped layer, bottom to top.

        Args:
            hidden: (M, D) at the exit.
        """
        ...


class PromptExit(NamedTuple):
    """Where prompt tokens but the last exit.

    Attributes:
        layer: layers that they run, 1..L.
        maps: of the layers above; ``None`` for none.
    """

    layer: int
    maps: PromptMaps | None = None
