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
from dynamax_lm.decoders.cpu.products import Product, project_trusted, torch_product


class Arithmetic:
    """The operations that a decoder's layers share.

    Attributes:
        products: which products were chosen.
        project: ``linear(rows)`` for a linear layer and rows (N, D).
        product_of: the product for some outputs of a plain linear layer, for rows (N, D).
        normalise: ``norm(hidden)`` for a norm and hidden states (..., D).
    """

    def __init__(self) -> None:
        self.products: ChosenProducts = NOTHING_CHOSEN
        self.project: Callable[[nn.Module, Tensor], Tensor] = project_trusted
        self.product_of: Callable[[nn.Linear, Tensor], Product] = torch_product
        self.normalise: Callable[[nn.Module, Tensor], Tensor] = normalise

    def choose(self, linears: Sequence[LinearPlace], **options: Any) -> None:
        """Measure which products are fastest here.

        Args:
            linears: the decoder's linear layers.
            **options: see ``chosen_products.choose_products``.
        """
        self.products = choose_products(linears, **options)
        self.project = self.products.project
        self.product_of = self.products.product_of
