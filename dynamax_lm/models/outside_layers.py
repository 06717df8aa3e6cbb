"""Layers from outside the package in a loaded checkpoint: first their costs, then their adapters.

Costs are compared, so that settings that were checked with the announced ones hold for the decoder
that runs.
"""

from __future__ import annotations

from typing import Any

from dynamax_lm.common.errors import SettingError, error_line
from dynamax_lm.common.extensions import Extension
from dynamax_lm.core.costs import DecoderCosts, LayerCosts, costs_of_layers
from dynamax_lm.decoders.decoder import Decoder


def announced_costs(plan: Extension, own: DecoderCosts) -> DecoderCosts:
    """The costs of the plan's layers, before any weights load.

    Args:
        plan: of ``settings.layers.find_layers``.
        own: of the checkpoint's layers.

    Raises:
        SettingError: its code fails, or gives no costs of layers.
    """
    try:
        kinds = list(plan.made.costs(own.kinds))
        wrong = [kind for kind in kinds if not isinstance(kind, LayerCosts)]
        if not kinds or wrong:
            raise TypeError("costs() gives LayerCosts, one for each layer")
        costs = costs_of_layers(kinds)
        if (costs.width, costs.vocabulary) != (own.width, own.vocabulary):
            raise ValueError(f"its layers are not of width {own.width}, or of another vocabulary")
    except Exception as error:  # any error of the class's code
        raise SettingError(f"layers={plan.name}: {error_line(error, 160)}") from error
    return costs


def planned_decoder(plan: Extension, stack: Decoder, model: Any, costs: DecoderCosts) -> Decoder:
    """The decoder with the plan's layers.

    Args:
        plan: of ``settings.layers.find_layers``.
        stack: the checkpoint's decoder.
        model: transformers' model.
        costs: as announced.

    Raises:
        SettingError: its code fails, or its layers have other costs than announced.
    """
    try:
        made = stack.with_layers(list(plan.made.layers(stack.layers, model)))
        same = made.costs == costs
    except Exception as error:  # any error of the class's code
        raise SettingError(f"layers={plan.name}: {error_line(error, 160)}") from error
    if not same:
        raise SettingError(
            f"layers={plan.name}: the costs of its layers are not those that costs() gave"
        )
    return made
