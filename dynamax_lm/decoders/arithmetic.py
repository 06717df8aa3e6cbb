"""Matrix products and norms of one decoder: transformers' own operations, or faster ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from dynamax_lm.decoders.cpu.chosen_products import (
    NOTHING_CHOSEN,
    ChosenProducts,
    LinearPlace,
    choose_products,
)
from dynamax_lm.decoders.cpu.norms import normalise, normalise_trusted
from dynamax_lm.decoders.cpu.products import project_trusted


class Arithmetic:
    """The operations that a decoder's layers share.

    Args:
        trusted: whether every operation is transformers' own, to the last bit.

    Attributes:
        products: which products were chosen.
        project: ``linear(rows)`` for a linear layer and rows (N, D).
        normalise: ``norm(hidden)`` for a norm and hidden states (..., D).
    """

    def __init__(self, trusted: bool) -> None:
        self.trusted = trusted
        self.products: ChosenProducts = NOTHING_CHOSEN
        self.project: Callable[[nn.Module, Tensor], Tensor] = project_trusted
        self.normalise = normalise_trusted if trusted else normalise

    def choose(self, linears: Sequence[LinearPlace], **options: Any) -> None:
        """Measure which products are fastest here; trusted operations stay as they are.

        Args:
            linears: the decoder's linear layers.
            **options: see ``chosen_products.choose_products``.
        """
        if not self.trusted:
            self.products = choose_products(linears, **options)
            self.project = self.products.project
