"""What a layer costs, against torch's flop counter and an operation-by-operation recurrence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import mamba2_selective_state_update

from dynamax_lm.core.costs import unembed_flops
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from tests.decoders.counted_flops import (
    attention_configs,
    attention_model,
    mamba2_configs,
    mamba2_model,
    models,
    rotary,
    seen,
    tokens,
)


@models
@given(attention_configs(), st.integers(1, 9))
def test_attention_equals_the_counter_token_by_token(config: Any, count: int) -> None:
    model, costs = attention_model(config), AttentionCosts.from_config(config)
    cache = DynamicCache(config=config)
    for position in range(count):
        counted = seen(lambda: model(tokens(1), past_key_values=cache, use_cache=True))
        expected = costs.n_layers * costs.layer(position) + unembed_flops(costs)
        assert counted.total - rotary(model, 1) == expected


@models
@given(attention_configs(), st.integers(1, 9))
def test_attention_prompt_is_the_full_forward_less_masked_keys(config: Any, count: int) -> None:
    model, costs = attention_model(config), AttentionCosts.from_config(config)
    counted = seen(lambda: model(tokens(count), use_cache=False))
    masked = count * count - sum(costs.keys(position) for position in range(count))
    expected = costs.prompt(count) + count * unembed_flops(costs)
    expected += costs.n_layers * costs.context_per_key * masked
    assert counted.total - rotary(model, count) == expected


@models
@given(mamba2_configs(), st.integers(1, 4))
def test_mamba2_step_equals_the_counter_item_by_item(config: Mamba2Config, count: int) -> None:
    model, costs = mamba2_model(config), Mamba2Costs.from_config(config)
    cache = DynamicCache(config=config)
    model(tokens(2), cache_params=cache, use_cache=True)
    for _ in range(count):
        counted = seen(lambda: model(tokens(1), cache_params=cache, use_cache=True))
        projections = costs.state_projection + costs.gate_projection + costs.out_projection
        assert counted.linear == costs.n_layers * projections + unembed_flops(costs)
        assert counted.batched == costs.n_layers * costs.read_out
        # torch's fallback keeps one input too many and throws the first of two outputs away
        assert counted.convolution == 2 * costs.n_layers * costs.convolution
        unseen = costs.n_layers * costs.advance
        whole = costs.n_layers * costs.layer(0) + unembed_flops(costs)
        assert counted.total - counted.convolution // 2 + unseen == whole


@models
@given(mamba2_configs(), st.integers(1, 9))
def test_mamba2_prompt_has_the_counters_projections(config: Mamba2Config, count: int) -> None:
    model, costs = mamba2_model(config), Mamba2Costs.from_config(config)
    counted = seen(lambda: model(tokens(count), use_cache=False))
    recurrence = costs.convolution + costs.advance + costs.read_out
    expected = costs.prompt(count) - count * costs.n_layers * recurrence
    assert counted.linear == expected + count * unembed_flops(costs)


# --- what the counter cannot see: the recurrence, operation by operation ------------------------


class Tally:
    """How many multiplications and additions were made."""

    def __init__(self) -> None:
        self.made = 0


@dataclass(frozen=True)
class Counted:
    """A number that counts what is done with it."""

    value: float
    tally: Tally

    def __mul__(self, other: Counted) -> Counted:
        self.tally.made += 1
        return Counted(self.value * other.value, self.tally)

    def __add__(self, other: Counted) -> Counted:
        self.tally.made += 1
        return Counted(self.value + other.value, self.tally)


@models
@given(mamba2_configs(), st.integers(0, 2**31))
def test_mamba2_recurrence_equals_a_counted_one(config: Mamba2Config, seed: int) -> None:
    costs = Mamba2Costs.from_config(config)
    random = torch.Generator().manual_seed(seed)
    heads, wide, size = config.num_heads, config.head_dim, config.state_size
    state = torch.randn(1, heads, wide, size, generator=random)
    x = torch.randn(1, heads, wide, generator=random)
    step = torch.rand(heads, generator=random)
    rate = -torch.rand(heads, generator=random)
    b, c = (torch.randn(1, config.n_groups, size, generator=random) for _ in range(2))

    advancing, reading = Tally(), Tally()
    expected_state, expected_output = state.clone(), torch.zeros(heads, wide)
    for head in range(heads):
        group = head * config.n_groups // heads
        decay = Counted(float(torch.exp(step[head] * rate[head])), advancing)
        for channel in range(wide):
            entering = Counted(float(step[head] * x[0, head, channel]), advancing)
            output = Counted(0.0, reading)
            for element in range(size):
                old = Counted(float(state[0, head, channel, element]), advancing)
                new = old * decay + entering * Counted(float(b[0, group, element]), advancing)
                expected_state[0, head, channel, element] = new.value
                looked = Counted(new.value, reading) * Counted(float(c[0, group, element]), reading)
                output = output + looked
            expected_output[head, channel] = output.value
    assert advancing.made == costs.advance
    assert reading.made == costs.read_out

    # the counted recurrence is the model's own
    theirs = mamba2_selective_state_update(
        state,
        x,
        step[None, :, None].expand(1, heads, wide),
        rate[:, None, None].expand(heads, wide, size),
        b,
        c,
    )
    torch.testing.assert_close(theirs[0], expected_output, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, expected_state, rtol=1e-4, atol=1e-4)
