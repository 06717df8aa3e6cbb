"""Layers with a shared attention block: variants, refusals and what their skipped states cost."""

from __future__ import annotations

import pytest
import torch

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.skipped_states import SkippedFacts
from dynamax_lm.decoders.altered import check_unaltered
from dynamax_lm.decoders.check import check_layers
from dynamax_lm.decoders.checkpoint import FAMILY, check_config
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.costs.shared_block import SharedBlockCosts
from dynamax_lm.decoders.families import FAMILIES
from dynamax_lm.decoders.family_costs import decoder_costs
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.settings.skipped import find_skipped_state
from tests.decoders.tiny_families import LAYERS, tiny_config, tiny_model

COSTS = decoder_costs(FAMILIES["zamba2"], tiny_config("zamba2"))
FIRST = COSTS.kinds[0]  # type: ignore[union-attr]
assert isinstance(FIRST, SharedBlockCosts)


def test_blocks_without_adapters_and_rotary_angles_are_transformers() -> None:
    """As the smaller published checkpoints; the check at load compares them."""
    model = tiny_model("zamba2", use_shared_attention_adapter=False, use_mem_rope=False)
    with torch.inference_mode():
        check_layers(model, FamilyStack(model))


def test_rescaled_angles_are_refused() -> None:
    check_config(tiny_config("zamba2"), FAMILY)
    with pytest.raises(SettingError, match="use_long_context"):
        check_config(tiny_config("zamba2", use_long_context=True), FAMILY)


@pytest.mark.parametrize("inner", ["shared_transformer", "mamba_decoder", "mamba_decoder.mamba"])
def test_a_hook_inside_is_refused(inner: str) -> None:
    model = tiny_model("zamba2")
    model.model.layers[0].get_submodule(inner).register_forward_hook(lambda *given: None)
    with pytest.raises(SettingError, match=f"layers.0.{inner} has a forward hook"):
        check_unaltered(model)


@pytest.mark.parametrize("position", [0, 9])
def test_propagation_saves_what_the_mixers_output_alone_reads(position: int) -> None:
    """Gate, read-out and output of the mixer; everything else is part of its state, or of a key."""
    mixer = FIRST.mixers[1]
    assert isinstance(mixer, Mamba2Costs)
    saved = mixer.gate_projection + mixer.read_out + mixer.out_projection
    spent = FIRST.skipped("propagate") + FIRST.skipped_per_key("propagate") * (position + 1)
    assert spent == FIRST.layer(position) - saved


def test_the_ledger_bills_a_skipped_block_at_each_tokens_context() -> None:
    depth, prompt = 2, 5

    def state(position: int) -> int:
        grown = COSTS.states_per_key("propagate", depth) * (position + 1)
        return COSTS.states("propagate", depth) + grown

    bill = Ledger(COSTS, exit_layers=(depth,), prompt_exit=depth).answer(prompt, [depth, LAYERS])
    assert bill.propagation == state(prompt)
    below = COSTS.prompt(prompt, depth)
    assert bill.prompt == below + sum(state(position) for position in range(prompt))


def test_policies_of_the_parts_that_the_layer_lacks_are_refused() -> None:
    """A mixer that takes a token in without its attention, and policies from outside."""
    name = "attention:copy_kv+mamba2:freeze"
    assert find_skipped_state(name, COSTS) == name
    assert COSTS.states(name, 0) == COSTS.states_per_key(name, 0) == 0
    with pytest.raises(SettingError, match="needs attention:propagate"):
        find_skipped_state("attention:copy_kv+mamba2:propagate", COSTS)
    outside = SkippedFacts(layers=(AttentionCosts, Mamba2Costs), flops=lambda costs: 0)
    with pytest.raises(ValueError, match="own policies"):
        COSTS.states(outside, 0)
