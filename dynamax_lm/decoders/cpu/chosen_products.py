"""The matrix products of one model's layers: chosen once for each shape, packed, and called.

Layers of one shape and number format share a choice, and so do all models of a process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.decoders.cpu.pages import page_out
from dynamax_lm.decoders.cpu.product_choice import AUTO, choose
from dynamax_lm.decoders.cpu.product_rule import TURNED, UNPACKED, Choice
from dynamax_lm.decoders.cpu.products import (
    Packed,
    Product,
    can_call,
    can_pack,
    computes_alone,
    is_plain,
    project_trusted,
    turned,
    unpacked,
)

_WORTH_MEASURING = 1 << 16
"""Elements of a weight. Below, call overhead dominates, and ``F.linear`` is kept."""


class LinearPlace(NamedTuple):
    """The attribute of a module that holds a linear layer.

    Attributes:
        parent: the module.
        name: the attribute.
        cut: index at which its outputs are split; 0 for no split.
        stays: whether its weight must not be repacked.
    """

    parent: nn.Module
    name: str
    cut: int = 0
    stays: bool = False

    @property
    def linear(self) -> Any:
        """The layer."""
        return getattr(self.parent, self.name)


class Kind(NamedTuple):
    """What layers of one choice share: shape (E, D), number format, and permitted layouts."""

    outputs: int
    inputs: int
    dtype: torch.dtype
    cut: int
    stays: bool


class Known(NamedTuple):
    """A choice of this process, and the arguments it was made for."""

    kind: Kind
    batch: int
    threads: int
    asked: str


Choices = dict[Kind, Choice]
_known: dict[Known, Choice] = {}
"""Measured once a process: a second model uses the same products."""


class ChosenProducts:
    """The products chosen for the layers of one model.

    Args:
        asked: ``auto``, ``packed`` or ``plain``.
        batch: batch size that they were chosen for.
        choices: by kind of layer.
        layers: how many layers there are of each.
    """

    def __init__(
        self, asked: str, batch: int, choices: Mapping[Kind, Choice], layers: Mapping[Kind, int]
    ) -> None:
        self._asked, self._batch = asked, batch
        self._choices, self._layers = choices, layers
        self._plain = {
            (kind.outputs, kind.inputs): choice
            for kind, choice in choices.items()
            if {UNPACKED, TURNED} & {choice.one_row, choice.more_rows}
        }

    def project(self, linear: nn.Module, rows: Tensor) -> Tensor:
        """``linear(rows)`` for rows (N, D), up to rounding."""
        if self._plain and is_plain(linear):
            product = self.product_of(linear, rows)
            if product is not F.linear:
                return product(rows, linear.weight, linear.bias)
        return project_trusted(linear, rows)

    def product_of(self, linear: nn.Linear, rows: Tensor) -> Product:
        """The product for all or some of a plain layer's outputs, for rows (N, D)."""
        weight = linear.weight
        choice = self._plain.get((weight.shape[0], weight.shape[1]))
        if choice is None or not can_call(weight) or not computes_alone(rows, weight):
            return F.linear
        name = choice.one_row if rows.shape[0] == 1 else choice.more_rows
        return {UNPACKED: unpacked, TURNED: turned}.get(name, F.linear)

    def describe(self) -> dict[str, Any]:
        """As JSON, shape by shape, for the results and the benchmark."""
        return {
            "asked": self._asked,
            "batch": self._batch,
            "threads": torch.get_num_threads(),
            "shapes": [
                {
                    "outputs": kind.outputs,
                    "inputs": kind.inputs,
                    "dtype": str(kind.dtype).removeprefix("torch."),
                    "layers": self._layers[kind],
                }
                | choice.describe()
                for kind, choice in self._choices.items()
            ],
        }


NOTHING_CHOSEN = ChosenProducts(AUTO, 1, {}, {})
"""Every product is the layer's own."""


def choose_products(
    places: Sequence[LinearPlace],
    *,
    batch: int,
    asked: str = AUTO,
    arrange: bool = True,
    share: Callable[[Choices], Choices] = lambda choices: choices,
) -> ChosenProducts:
    """Measure, choose, and repack the weights where that was chosen.

    Args:
        places: the layers.
        batch: rows of a decoding step, at least 1.
        asked: ``auto``, ``packed`` or ``plain``.
        arrange: whether layers may be replaced; if not, no weight is repacked.
        share: from this process's choices to those that all processes of a run use.
    """
    groups: dict[Kind, list[LinearPlace]] = {}
    for place in places:
        if _can_choose(place.linear):
            weight = place.linear.weight
            stays = place.stays or not arrange
            kind = Kind(weight.shape[0], weight.shape[1], weight.dtype, place.cut, stays)
            groups.setdefault(kind, []).append(place)
    choices = share({kind: _recall(kind, some, batch, asked) for kind, some in groups.items()})
    for kind, some in groups.items():
        if choices[kind].width:
            for place in some:
                linear = place.linear
                setattr(place.parent, place.name, Packed(linear, place.cut, choices[kind].width))
                page_out(linear.weight)
    layers = {kind: len(some) for kind, some in groups.items()}
    return ChosenProducts(asked, batch, choices, layers)


def _can_choose(linear: nn.Module) -> bool:
    """Whether ``linear`` is a plain layer, large enough, with more than one product on this CPU."""
    if not is_plain(linear) or linear.weight.numel() < _WORTH_MEASURING:
        return False
    return can_pack(linear.weight) or can_call(linear.weight)


def _recall(kind: Kind, places: Sequence[LinearPlace], batch: int, asked: str) -> Choice:
    known = Known(kind, batch, torch.get_num_threads(), asked)
    if known not in _known:
        _known[known] = choose(
            [place.linear.weight for place in places],
            batch=batch,
            asked=asked,
            cut=kind.cut,
            stays=kind.stays,
        )
    return _known[known]
