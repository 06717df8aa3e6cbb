"""The models that lm-eval registers: ``dynamax-mistral``, ``dynamax-mamba`` and ``dynamax``.

Each names its checkpoints, how their costs follow from a configuration, and their decoder.
"""

from __future__ import annotations

from typing import Any

from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.decoders import checkpoint
from dynamax_lm.decoders.attention import MistralStack
from dynamax_lm.decoders.check import check_layers
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.families import text_decoder
from dynamax_lm.decoders.family_costs import decoder_costs
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.decoders.mamba2 import Mamba2Stack
from dynamax_lm.models.exit_model import DynamaxLM


class DynamaxMistral(DynamaxLM):
    """Mistral- and Llama-type checkpoints with early exits."""

    ARCHITECTURE = checkpoint.ATTENTION
    STACK = MistralStack

    @classmethod
    def _costs(cls, config: Any) -> DecoderCosts:
        return AttentionCosts.from_config(config)


class DynamaxMamba(DynamaxLM):
    """Mamba-2 checkpoints with early exits."""

    ARCHITECTURE = checkpoint.MAMBA2
    STACK = Mamba2Stack

    @classmethod
    def _costs(cls, config: Any) -> DecoderCosts:
        return Mamba2Costs.from_config(config)


class Dynamax(DynamaxLM):
    """Checkpoints of any ``model_type`` in the table of families, with early exits.

    When the weights have loaded, the lowest layers are compared with transformers' own.
    """

    ARCHITECTURE = checkpoint.FAMILY
    STACK = FamilyStack

    @classmethod
    def _costs(cls, config: Any) -> DecoderCosts:
        return decoder_costs(*text_decoder(config))

    def _build(self, model: Any) -> Any:
        stack = super()._build(model)
        check_layers(model, stack)
        return stack
