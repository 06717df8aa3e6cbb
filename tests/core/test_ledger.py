"""Laws of the ledger's arithmetic, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Mamba2Config

from dynamax_lm.core.costs import LayerCosts, norm_flops, unembed_flops
from dynamax_lm.core.ledger import HeadCosts, Ledger
from dynamax_lm.core.trace import FlopsBreakdown
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs

LOGIT_MEASURES = ("top_prob", "margin", "entropy", "patience")
MEASURES = (*LOGIT_MEASURES, "saturation", "oracle")
numbers = st.integers(1, 50)
attention_costs = st.builds(
    AttentionCosts,
    n_layers=st.integers(2, 9),
    width=numbers,
    feedforward=numbers,
    query_heads=numbers,
    kv_heads=numbers,
    head_dim=numbers,
    vocabulary=numbers,
    window=st.one_of(st.none(), st.integers(1, 9)),
)
mamba2_costs = st.builds(
    Mamba2Costs,
    n_layers=st.integers(2, 9),
    width=numbers,
    inner=numbers,
    heads=numbers,
    groups=numbers,
    state_size=numbers,
    kernel=numbers,
    vocabulary=numbers,
)
all_costs = st.one_of(attention_costs, mamba2_costs)


@dataclass(frozen=True)
class Case:
    """A ledger, its inputs, and an answer."""

    costs: LayerCosts
    exits: tuple[int, ...]
    confidence: str
    skipped_state: str
    extras: tuple[HeadCosts, ...]
    ledger: Ledger
    prompt_tokens: int
    layers_used: tuple[int, ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    costs = draw(all_costs)
    exits = tuple(sorted(draw(st.sets(st.integers(1, costs.n_layers - 1)))))
    confidence = draw(st.sampled_from([*MEASURES, "head"]))
    other = "copy_kv" if isinstance(costs, AttentionCosts) else "freeze"
    skipped_state = draw(st.sampled_from(["propagate", other]))
    trained = tuple(HeadCosts(7 * number, 1000 * number) for number in range(1, len(exits) + 1))
    extras = draw(st.sampled_from([(), trained]))
    ledger = Ledger(
        costs,
        exit_layers=exits,
        confidence=confidence,
        skipped_state=skipped_state,
        exit_extras=extras,
    )
    depths = st.sampled_from([*exits, costs.n_layers])
    used = tuple(draw(st.lists(depths, min_size=1, max_size=6)))
    prompt_tokens = draw(st.integers(0, 12))
    return Case(costs, exits, confidence, skipped_state, extras, ledger, prompt_tokens, used)


def items(bill: FlopsBreakdown) -> tuple[int, ...]:
    return (bill.prompt, bill.layers, bill.checks, bill.projection, bill.propagation)


@given(cases())
def test_items_are_whole_and_not_negative_and_savings_at_most_one(case: Case) -> None:
    bill = case.ledger.answer(case.prompt_tokens, case.layers_used)
    assert all(isinstance(item, int) and item >= 0 for item in items(bill))
    assert bill.flops_saved <= 1.0
    assert bill.flops_saved_total <= 1.0
    assert bill.recomputation == bill.verification == 0


@given(cases())
def test_a_bill_adds_up_over_tokens(case: Case) -> None:
    whole = case.ledger.answer(case.prompt_tokens, case.layers_used)
    total = FlopsBreakdown(prompt=whole.prompt)
    for position, used in enumerate(case.layers_used, start=case.prompt_tokens):
        total += replace(case.ledger.answer(position, [used]), prompt=0)
    assert total == whole


@given(cases())
def test_never_leaving_costs_exactly_its_checks(case: Case) -> None:
    bill = case.ledger.answer(case.prompt_tokens, [case.costs.n_layers] * len(case.layers_used))
    assert bill.spent - bill.full_depth == bill.checks
    assert bill.propagation == 0


@given(all_costs, st.integers(0, 9), st.integers(1, 5))
def test_full_depth_without_exits_saves_nothing(costs: LayerCosts, prompt: int, count: int) -> None:
    bill = Ledger(costs).answer(prompt, [costs.n_layers] * count)
    assert bill.spent == bill.full_depth
    assert bill.checks == 0
    assert bill.flops_saved == 0.0
    last = costs.prompt(prompt + count) - costs.prompt(prompt)
    assert bill.full_depth == last + count * (norm_flops(costs) + unembed_flops(costs))


@given(cases(), st.data())
def test_leaving_earlier_never_runs_or_asks_more(case: Case, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(case.layers_used) - 1))
    later = case.layers_used[place]
    earlier = data.draw(st.sampled_from([e for e in (*case.exits, later) if e <= later]))
    changed = (*case.layers_used[:place], earlier, *case.layers_used[place + 1 :])
    before = case.ledger.answer(case.prompt_tokens, case.layers_used)
    after = case.ledger.answer(case.prompt_tokens, changed)
    assert after.layers <= before.layers
    assert after.checks <= before.checks
    assert after.propagation >= before.propagation
    assert after.full_depth == before.full_depth


@given(all_costs, st.integers(0, 30))
def test_a_prompt_is_the_sum_of_its_positions(costs: LayerCosts, count: int) -> None:
    by_hand = sum(costs.n_layers * costs.layer(position) for position in range(count))
    assert costs.prompt(count) == by_hand


@given(all_costs)
def test_a_skipped_layer_costs_less_than_the_layer(costs: LayerCosts) -> None:
    assert 0 < costs.skipped("propagate") < costs.layer(0)


@given(cases())
def test_a_bill_spelt_out_token_by_token(case: Case) -> None:
    bill = case.ledger.answer(case.prompt_tokens, case.layers_used)
    emission = norm_flops(case.costs) + unembed_flops(case.costs)
    layers = checks = projection = state = 0
    for offset, used in enumerate(case.layers_used):
        layers += sum(case.costs.layer(case.prompt_tokens + offset) for _ in range(used))
        asked = [exit_ for exit_ in case.exits if exit_ <= used]
        reused = case.confidence in LOGIT_MEASURES and used < case.costs.n_layers
        projection += 0 if reused else emission
        if case.confidence in LOGIT_MEASURES:
            checks += len(asked) * emission
        elif case.confidence == "saturation":
            checks += len(asked[1:]) * 6 * case.costs.width
        extras = case.extras[: len(asked)]
        if case.confidence == "head":
            checks += sum(extra.classifier for extra in extras)
        if case.confidence in LOGIT_MEASURES:
            checks += sum(extra.translator for extra in extras)
        elif extras and used < case.costs.n_layers:
            projection += extras[-1].translator
        for _ in range(used, case.costs.n_layers):
            state += case.costs.skipped(case.skipped_state)
    assert (bill.layers, bill.projection, bill.propagation) == (layers, projection, state)
    assert bill.checks == checks


def test_trained_parts_are_paid_at_every_exit_asked() -> None:
    costs = Mamba2Costs(
        n_layers=4, width=2, inner=4, heads=2, groups=1, state_size=3, kernel=2, vocabulary=5
    )
    ledger = Ledger(
        costs,
        exit_layers=(1, 2, 3),
        confidence="head",
        exit_extras=[HeadCosts(10), HeadCosts(200), HeadCosts(3000)],
    )
    assert [ledger.answer(0, [used]).checks for used in (1, 2, 3, 4)] == [10, 210, 3210, 3210]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exit_layers": (0,)}, "exits ascend within"),
        ({"exit_layers": (4,)}, "exits ascend within"),
        ({"exit_layers": (2, 1)}, "exits ascend within"),
        ({"exit_layers": (1, 1)}, "exits ascend within"),
        ({"confidence": "luck"}, "is none of"),
        ({"exit_layers": (1,), "skipped_state": "freeze"}, "no skipped_state"),
        ({"exit_layers": (1,), "exit_extras": (HeadCosts(), HeadCosts())}, "exit_extras"),
    ],
)
def test_impossible_ledgers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ledger(tiny_attention(), **arguments)


def test_impossible_answers_are_refused() -> None:
    ledger = Ledger(tiny_attention(), exit_layers=(2,))
    with pytest.raises(ValueError, match="not at layer 3"):
        ledger.answer(0, [3])
    with pytest.raises(ValueError, match="prompt_tokens"):
        ledger.answer(-1, [4])


def test_mamba2_has_no_kv_to_copy() -> None:
    costs = Mamba2Costs.from_config(Mamba2Config())
    with pytest.raises(ValueError, match="copy_kv"):
        costs.skipped("copy_kv")


def tiny_attention() -> AttentionCosts:
    return AttentionCosts(
        n_layers=4, width=2, feedforward=3, query_heads=2, kv_heads=1, head_dim=2, vocabulary=5
    )
