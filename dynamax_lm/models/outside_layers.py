"""Layers from outside the package in a loaded checkpoint: first their costs, then their adapters.

Costs are compared, so that settings that were checked with the announced ones hold for the decoder
that runs.
"""

from __future__ import annotations

from typing import Any

from dynamax_lm.common.errors import SettingError, error_line
from dynamax_lm.common.extensions import Extension
from dynamax_lm.core.costs import DecoderCosts, LayerCosts, costs_of_layers
from dynamax_lm.decoders.check import check_layers
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.outside_stack import OutsideStack


def describes_new_types(plan: Extension | None) -> bool:
    """Whether a plan has all layers of a ``model_type`` that the package lacks."""
    return plan is not None and bool(getattr(plan.made, "norm", ""))


def announced_costs(plan: Extension, config: Any, own: DecoderCosts | None) -> DecoderCosts:
    """The costs of the plan's layers, before any weights load.

    Args:
        plan: of ``settings.layers.find_layers``.
        config: of the checkpoint.
        own: of the checkpoint's layers; ``None`` if the package lacks its ``model_type``.

    Raises:
        SettingError: its code fails, or gives no costs of layers.
    """
    try:
        kinds = list(plan.made.new_costs(config) if own is None else plan.made.costs(own.kinds))
        wrong = [kind for kind in kinds if not isinstance(kind, LayerCosts)]
        if not kinds or wrong:
            raise TypeError("costs() gives LayerCosts, one for each layer")
        costs = costs_of_layers(kinds)
        width = config.hidden_size if own is None else own.width
        vocabulary = config.vocab_size if own is None else own.vocabulary
        if (costs.width, costs.vocabulary) != (width, vocabulary):
            raise ValueError(f"its layers are not of width {width}, or of another vocabulary")
    except Exception as error:  # any error of the class's code
        raise SettingError(f"layers={plan.name}: {error_line(error, 160)}") from error
    return costs


def planned_decoder(
    plan: Extension, stack: Decoder | None, model: Any, costs: DecoderCosts
) -> Decoder:
    """The decoder with the plan's layers.

    Args:
        plan: of ``settings.layers.find_layers``.
        stack: the checkpoint's decoder; ``None`` if the package lacks its ``model_type``.
        model: transformers' model.
        costs: as announced.

    Raises:
        SettingError: its code fails, its layers have other costs than announced, or of a new
            ``model_type`` they are not transformers'.
    """
    try:
        if stack is None:
            made: Decoder = OutsideStack(model, plan.made)
            check_layers(model, made, f"layers={plan.name}")
        else:
            made = stack.with_layers(list(plan.made.layers(stack.layers, model)))
        same = made.costs == costs
    except SettingError:
        raise
    except Exception as error:  # any error of the class's code
        raise SettingError(f"layers={plan.name}: {error_line(error, 160)}") from error
    if not same:
        raise SettingError(
            f"layers={plan.name}: the costs of its layers are not those that costs() gave"
        )
    return made
