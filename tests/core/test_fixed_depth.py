"""What a fixed depth costs is what a shorter model costs."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

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
