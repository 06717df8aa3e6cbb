"""A decoder of a ``model_type`` that the table of families lacks, with layers from outside."""

from __future__ import annotations

from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.adapter import LayerPlan
from dynamax_lm.decoders.altered import check_unaltered
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.decoder import Decoder


class OutsideStack(Decoder):
    """A plan's layers between a model's own embedding, final norm and vocabulary projection.

    Args:
        model: transformers' causal language model, in evaluation mode.
        plan: with ``norm``.

    Raises:
        SettingError: the model has no vocabulary projection that can be found.

    Attributes:
        decoder: the model without its vocabulary head.
    """

    def __init__(self, model: Any, plan: LayerPlan) -> None:
        check_unaltered(model)
        self.decoder = model.base_model
        head = model.get_output_embeddings()
        name = next((name for name, module in model.named_modules() if module is head), None)
        if name is None:
            raise SettingError(
                f"{type(model).__name__} has no vocabulary projection: its get_output_embeddings() "
                f"gives none of its modules; give layers to a causal language model"
            )
        owner, _, slot = name.rpartition(".")
        super().__init__(
            list(plan.layers((), model)),
            embedding=model.get_input_embeddings(),
            norm=model.get_submodule(plan.norm),
            head=LinearPlace(model.get_submodule(owner), slot),
            vocab_size=model.config.vocab_size,
            arithmetic=Arithmetic(),
        )
