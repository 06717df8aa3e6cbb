"""What a fixed depth costs is what a shorter model costs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.core.costs import HybridCosts
from dynamax_lm.core.fixed_depth import FixedDepths
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs

ATTENTION = AttentionCosts(
    n_layers=6, width=16, feedforward=40, query_heads=4, kv_heads=2, head_dim=4, vocabulary=50
)
MAMBA = Mamba2Costs(
    n_layers=6, width=16, inner=32, heads=4, groups=1, state_size=8, kernel=4, vocabulary=50
)


@given(
    costs=st.sampled_from([ATTENTION, replace(ATTENTION, window=5), MAMBA]),
    depth=st.integers(1, 6),
    prompt=st.integers(0, 12),
    tokens=st.integers(1, 9),
    translator=st.integers(0, 1000),
)
def test_a_fixed_depth_costs_what_a_model_of_so_many_layers_costs(
    costs, depth, prompt, tokens, translator
):
    one_layer = sum(costs.layer(prompt + place) for place in range(tokens))
    fixed = FixedDepths.of(costs, one_layer, tokens)
    found = fixed.at(depth, translator)
    assert abs(fixed.depth(fixed.at(depth)) - depth) < 1e-9
    shorter = Ledger(replace(costs, n_layers=depth)).answer(prompt, [depth] * tokens)
    assert found == shorter.spent + tokens * translator
    if depth < costs.n_layers:  # a rule that leaves there pays for the state above as well
        ledger = Ledger(costs, exit_layers=[depth], confidence="oracle")
        left = ledger.answer(prompt, [depth] * tokens)
        above = tokens * (costs.n_layers - depth) * costs.skipped("propagate")
        assert left.spent - above == shorter.spent


@given(
    kinds=st.lists(st.sampled_from([ATTENTION, MAMBA]), min_size=2, max_size=6),
    prompt=st.integers(0, 12),
    tokens=st.integers(1, 9),
    data=st.data(),
)
def test_layers_of_several_kinds_cost_what_they_cost_one_by_one(kinds, prompt, tokens, data):
    costs = HybridCosts(tuple(kinds))
    depth = data.draw(st.integers(1, len(kinds)))
    whole = sum(costs.layers(prompt + place, 0, len(kinds)) for place in range(tokens))
    fixed = FixedDepths.of(costs, whole / len(kinds), tokens)
    shorter = Ledger(HybridCosts(tuple(kinds[:depth]))).answer(prompt, [depth] * tokens)
    assert fixed.at(depth) == pytest.approx(shorter.spent, rel=1e-9)
    assert fixed.depth(fixed.at(depth)) == pytest.approx(depth, rel=1e-9)
