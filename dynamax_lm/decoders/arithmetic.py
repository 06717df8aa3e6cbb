"""Matrix products and norms of one decoder: ``F.linear`` until faster products are chosen."""

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
from dynamax_lm.decoders.cpu.norms import normalise
from dynamax_lm.decoders.cpu.products import project_trusted


class Arithmetic:
    """The operations that a decoder's layers share.

    Attributes:
        products: which products were chosen.
        project: ``linear(rows)`` for a linear layer and rows (N, D).
        normalise: ``norm(hidden)`` for a norm and hidden states (..., D).
    """

    def __init__(self) -> None:
        self.products: ChosenProducts = NOTHING_CHOSEN
        self.project: Callable[[nn.Module, Tensor], Tensor] = project_trusted
        self.normalise: Callable[[nn.Module, Tensor], Tensor] = normalise

    def choose(self, linears: Sequence[LinearPlace], **options: Any) -> None:
        """Measure which products are fastest here.

        Args:
            linears: the decoder's linear layers.
            **options: see ``chosen_products.choose_products``.
        """
        self.products = choose_products(linears, **options)
        self.project = self.products.project
