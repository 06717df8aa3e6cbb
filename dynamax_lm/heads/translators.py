"""Translators: maps of an exit's hidden state before the final norm and the unembedding.

They start as the identity. Only the unembedding reads their output: the state of skipped layers
comes from the hidden state itself. Affine maps are the tuned lens (arXiv 2303.08112); the low-rank
ones cost 4 D r FLOPs a token instead of 2 D^2.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn


class TranslatorConfig(Protocol):
    """The configuration of translators; that of heads is one."""

    @property
    def width(self) -> int:
        """D."""
        ...

    @property
    def translator(self) -> str:
        """``identity``, ``low_rank`` or ``affine``."""
        ...

    @property
    def translator_rank(self) -> int:
        """Of ``low_rank``."""
        ...


class Translator(nn.Module):
    """The identity, free of cost.

    Attributes:
        flops: of one token, by the ledger's conventions; biases and sums are not counted.
    """

    flops: int = 0

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return hidden


class LowRank(Translator):
    """hidden + up(down(hidden)), through r numbers."""

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__()
        width, rank = config.width, config.translator_rank
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.flops = 2 * 2 * width * rank

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        translated: Tensor = hidden + self.up(self.down(hidden))
        return translated


class Affine(Translator):
    """hidden + a full map of it and a bias."""

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.width, config.width))
        self.bias = nn.Parameter(torch.zeros(config.width))
        self.flops = 2 * config.width * config.width

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return hidden + nn.functional.linear(hidden, self.weight, self.bias)


def make_translator(config: TranslatorConfig) -> Translator:
    """One exit's translator."""
    if config.translator == "low_rank":
        return LowRank(config)
    if config.translator == "affine":
        return Affine(config)
    return Translator()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """No mixed precision: heads are small, and their confidences are compared with a threshold."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
