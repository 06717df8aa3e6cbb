"""The ledger against torch's flop counter, an operation-by-operation recurrence, and its laws."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.models.mamba2.modeling_mamba2 import mamba2_selective_state_update

from dynamax_lm.core.catchup import final_depths
from dynamax_lm.core.costs import LayerCosts, norm_flops, unembed_flops
from dynamax_lm.core.ledger import HeadCosts, Ledger
from dynamax_lm.core.looks import Look, looking, split_look
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.trace import FlopsBreakdown
from dynamax_lm.decoders.attention import MistralStack
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.mamba2 import Mamba2Stack
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.heads.prompt_map_config import KINDS as MAPS
from dynamax_lm.models.trained import exit_extras
from tests.decoders.transformers_own import transformers_own
from tests.heads.builders import heads_of, kinds, random_maps

models = settings(max_examples=25, deadline=None)
MEASURES = ("top_prob", "margin", "entropy", "patience", "saturation", "oracle")
LOGIT_MEASURES = ("top_prob", "margin", "entropy", "patience")


# --- what the flop counter sees ------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """FLOPs by operator, as torch counts them."""

    linear: int
    batched: int
    convolution: int

    @property
    def total(self) -> int:
        return self.linear + self.batched + self.convolution


def seen(run: Callable[[], object]) -> Seen:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts().get("Global", {})
    aten = torch.ops.aten
    known = {aten.mm: "linear", aten.addmm: "linear", aten.bmm: "batched"}
    known[aten.convolution] = "convolution"
    sums = dict.fromkeys(("linear", "batched", "convolution"), 0)
    for operator, flops in counts.items():
        sums[known[operator]] += flops
    result = Seen(**sums)
    assert result.total == counter.get_total_flops()
    return result


def tokens(count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.long)


@st.composite
def attention_configs(draw: st.DrawFn) -> Any:
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    common: dict[str, Any] = {
        "num_hidden_layers": draw(st.integers(1, 3)),
        "hidden_size": heads * draw(st.integers(2, 5)),
        "intermediate_size": draw(st.integers(3, 20)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 4)),
        "vocab_size": draw(st.integers(4, 20)),
        "attn_implementation": "eager",
        "pad_token_id": 0,
    }
    if draw(st.booleans()):
        biases = {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
        return LlamaConfig(**common, **biases)
    window = draw(st.one_of(st.none(), st.integers(2, 6)))
    return MistralConfig(**common, sliding_window=window)


@st.composite
def mamba2_configs(draw: st.DrawFn) -> Mamba2Config:
    groups = draw(st.integers(1, 3))
    heads = groups * draw(st.integers(1, 3))
    expand = draw(st.sampled_from([1, 2]))
    head_dim = 2 * draw(st.integers(1, 3))
    return Mamba2Config(
        num_hidden_layers=draw(st.integers(1, 3)),
        hidden_size=heads * head_dim // expand,
        expand=expand,
        num_heads=heads,
        head_dim=head_dim,
        n_groups=groups,
        state_size=draw(st.integers(1, 6)),
        conv_kernel=draw(st.integers(2, 4)),
        chunk_size=draw(st.sampled_from([1, 4, 8])),
        vocab_size=draw(st.integers(4, 20)),
        use_bias=draw(st.booleans()),
        use_conv_bias=draw(st.booleans()),
    )


def attention_model(config: Any) -> Any:
    kind = MistralForCausalLM if isinstance(config, MistralConfig) else LlamaForCausalLM
    return kind(config).eval().requires_grad_(False)


def mamba2_model(config: Mamba2Config) -> Any:
    return Mamba2ForCausalLM(config).eval().requires_grad_(False)


def rotary(model: Any, count: int) -> int:
    """Frequencies times positions, elementwise to us: a product in some transformers versions."""
    angles, width = model.model.rotary_emb, model.config.hidden_size
    return seen(lambda: angles(torch.zeros(1, count, width), torch.arange(count)[None])).total


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


# --- what it cannot see: the recurrence, operation by operation ----------------------------------


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


# --- a real run with exits -----------------------------------------------------------------------


def norms_billed(exits: tuple[int, ...], confidence: str, layers_used: tuple[int, ...]) -> int:
    """Norms that exits and emissions made: one for each look and each further projection."""
    measure, look = split_look(confidence)
    if measure not in LOGIT_MEASURES:
        return len(layers_used)
    asked = sum(layer <= used for used in layers_used for layer in exits)
    reused = [layer for exit, layer in enumerate(exits) if look.exact_at(exit)]
    return asked + sum(used not in reused for used in layers_used)


def draw_look(data: st.DataObject, costs: LayerCosts, *, lists: bool) -> str:
    """Of a measure that reads logits; ``full`` among them."""
    rank = data.draw(st.integers(0, costs.width))
    count = data.draw(st.integers(0, costs.vocabulary)) if lists else 0
    if rank and data.draw(st.booleans()):
        return Look(rank, refine=count).name
    return Look(rank, shortlist=count).name


def cosines_billed(exits: tuple[int, ...], confidence: str, layers_used: tuple[int, ...]) -> int:
    if confidence != "saturation":
        return 0
    return sum(max(0, sum(layer <= used for layer in exits) - 1) for used in layers_used)


def state_not_needed(costs: LayerCosts, skipped_state: str, layers_used: tuple[int, ...]) -> int:
    """The state of skipped layers that no later token of the answer runs: billed, not computed."""
    finally_at = final_depths(layers_used, costs.n_layers)
    return sum(costs.states(skipped_state, depth) for depth in finally_at)


class WithExits(NamedTuple):
    """What the counter saw of one generated answer, its bill, and what of it was not needed."""

    counted: Seen
    bill: FlopsBreakdown
    exits: tuple[int, ...]
    confidence: str
    used: tuple[int, ...]
    unneeded: int
    prompt_layers: int


def run_with_exits(
    stack: Any, costs: LayerCosts, data: st.DataObject, states: tuple[str, ...], lists: bool = True
) -> WithExits:
    """One generated answer, whose prompt may exit too."""
    layers = st.sets(st.integers(1, costs.n_layers - 1), min_size=2)
    exits = tuple(sorted(data.draw(layers)))
    confidence = data.draw(st.sampled_from([name for name in MEASURES if name != "oracle"]))
    if confidence in LOGIT_MEASURES:
        confidence = looking(confidence, draw_look(data, costs, lists=lists))
        stack.cheap_projection.factors(split_look(confidence)[1].rank or 1)  # once, when loading
    threshold = data.draw(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.01, 0.99)))
    skipped_state = data.draw(st.sampled_from(states))
    prompt = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)))
    request = GenerateRequest(prompt, max_new=4, stops=lambda _: False)
    prompt_exit = data.draw(st.none() | st.integers(1, costs.n_layers))
    maps = None
    if prompt_exit is not None and prompt_exit < costs.n_layers - 1 and data.draw(st.booleans()):
        kind, group = data.draw(st.sampled_from(MAPS)), data.draw(st.integers(1, 3))
        own = {"translator": kind, "translator_rank": min(2, costs.width), "group": group}
        maps = random_maps(costs.width, costs.n_layers, prompt_exit, **own)
    policy = ExitPolicy(exits, confidence, threshold, prompt_exit=prompt_exit, prompt_maps=maps)
    answers: list[Any] = []

    def both() -> None:
        answers.extend(generate(stack, [request], policy=policy, skipped_state=skipped_state))

    with torch.no_grad():
        counted = seen(both)
    used = answers[0].trace.layers_used
    ledger = Ledger(
        costs,
        exit_layers=exits,
        confidence=confidence,
        skipped_state=skipped_state,
        prompt_exit=prompt_exit,
        prompt_maps=0 if maps is None else maps.flops,
    )
    unneeded = state_not_needed(costs, skipped_state, used)
    ran = costs.n_layers if prompt_exit is None else prompt_exit
    return WithExits(
        counted, ledger.answer(len(prompt) - 1, used), exits, confidence, used, unneeded, ran
    )


@models
@given(attention_configs(), st.data())
def test_a_run_with_exits_costs_what_the_bill_says_on_attention(
    config: Any, data: st.DataObject
) -> None:
    config.num_hidden_layers = data.draw(st.integers(3, 5))
    config.sliding_window = None  # the stack masks old keys, and the counter counts masked keys
    model, costs = attention_model(config), AttentionCosts.from_config(config)
    counted, bill, exits, confidence, used, unneeded, prompt_layers = run_with_exits(
        MistralStack(model), costs, data, ("propagate", "copy_kv")
    )
    whole = bill.prompt + bill.prompt_saved
    prompt_tokens = next(n for n in range(9) if costs.prompt(n) == whole)
    masked = prompt_tokens * (prompt_tokens - 1) // 2
    prompt = bill.prompt + prompt_layers * costs.context_per_key * masked
    unseen = norms_billed(exits, confidence, used) * norm_flops(costs)
    unseen += cosines_billed(exits, confidence, used) * 6 * costs.width
    positions = prompt_tokens + len(used)
    assert counted.total - rotary(model, positions) == prompt + bill.spent - unseen - unneeded


@models
@given(mamba2_configs(), st.data())
def test_a_run_with_exits_costs_what_the_bill_says_on_mamba2(
    config: Mamba2Config, data: st.DataObject
) -> None:
    config.num_hidden_layers = data.draw(st.integers(3, 5))
    # transformers' own functions: the counter's view of ours is another, of the same numbers
    with transformers_own():
        stack = Mamba2Stack(mamba2_model(config))
    costs = Mamba2Costs.from_config(config)
    counted, bill, exits, confidence, used, unneeded, prompt_layers = run_with_exits(
        *(stack, costs, data, ("propagate", "freeze")),
        lists=False,  # their products are batched ones, which are counted item by item below
    )
    unseen = norms_billed(exits, confidence, used) * norm_flops(costs)
    unseen += cosines_billed(exits, confidence, used) * 6 * costs.width
    running = sum(used)
    finally_at = final_depths(used, costs.n_layers) if bill.propagation else used
    skipped = sum(b - a for a, b in zip(used, finally_at, strict=True))
    prompt = (bill.prompt + bill.prompt_saved) // costs.layer(0)
    early = prompt // costs.n_layers * (costs.n_layers - prompt_layers)
    linear = bill.prompt + bill.spent - unseen - unneeded
    linear -= (running + prompt) * (costs.convolution + costs.advance + costs.read_out)
    linear += early * costs.read_out
    linear -= skipped * (costs.convolution + costs.advance)
    assert counted.linear == linear
    # torch's fallback: kernel - 1 outputs too many in a scan, one too many in a step
    outputs = (
        2 * (running + skipped) + prompt + (costs.n_layers * (costs.kernel - 1) if prompt else 0)
    )
    if skipped:  # a window slides over several tokens, and reads out those in between too
        assert counted.convolution >= outputs // 2 * costs.convolution
        return
    assert counted.convolution == outputs * costs.convolution
    if not prompt:  # a prompt is scanned in chunks, which is another count than the recurrence's
        assert counted.batched == running * costs.read_out


@settings(max_examples=15, deadline=None)
@given(attention_configs(), st.data())
def test_a_run_with_trained_heads_costs_what_the_bill_says(
    config: Any, data: st.DataObject
) -> None:
    """Classifiers are paid when asked, translators whenever an exit's logits are made."""
    config.num_hidden_layers, config.sliding_window = 4, None
    model, costs = attention_model(config), AttentionCosts.from_config(config)
    exits = tuple(sorted(data.draw(st.sets(st.integers(1, 3), min_size=1))))
    heads = heads_of(model, exits, **data.draw(kinds(config.hidden_size)))
    measures = ["head", "head", "top_prob", "saturation", "margin|rank:1+shortlist:2"]
    confidence = data.draw(st.sampled_from(measures))
    policy = ExitPolicy(exits, confidence, data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])))
    request = GenerateRequest((1,), max_new=4, stops=lambda _: False)
    answers: list[Any] = []
    stack = MistralStack(model)
    stack.cheap_projection.factors(1)
    counted = seen(lambda: answers.extend(generate(stack, [request], policy=policy, heads=heads)))
    used = answers[0].trace.layers_used
    ledger = Ledger(
        costs, exit_layers=exits, confidence=confidence, exit_extras=exit_extras(heads, exits)
    )
    asked = sum(layer <= depth for depth in used for layer in exits)
    unseen = norms_billed(exits, confidence, used) * norm_flops(costs)
    unseen += cosines_billed(exits, confidence, used) * 6 * costs.width
    if confidence == "head":
        unseen += asked * norm_flops(costs)
        if heads.config.classifier in {"mamba", "mamba_depth"}:  # the advance is elementwise
            inner = heads.config.expand * heads.config.classifier_width
            unseen += asked * 3 * inner * heads.config.state_size
    unneeded = state_not_needed(costs, "propagate", used)
    billed = ledger.answer(0, used).spent - unseen - unneeded
    assert counted.total - rotary(model, len(used)) == billed


# --- laws of the arithmetic ----------------------------------------------------------------------

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


# --- the 7B models -------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


def ledger_7b() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "ledger_7b.py"))


def test_the_7b_numbers_are_their_configurations() -> None:
    script = ledger_7b()
    mistral = MistralConfig(vocab_size=32768, sliding_window=None)  # v0.3; the rest is v0.1's
    assert script["MISTRAL"] == AttentionCosts.from_config(mistral)
    assert script["CODESTRAL"] == Mamba2Costs.from_config(Mamba2Config())


def test_the_page_shows_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    ledger_7b()["main"]()
    page = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    sections = capsys.readouterr().out.strip().split("\n\n### ")
    assert len(sections) == 4
    for section in sections:
        assert section.strip() in page


@pytest.mark.parametrize(
    ("name", "megaflops"),
    [
        ("mistral layer", 436.2),
        ("codestral layer", 224.5),
        ("vocabulary", 268.4),
        ("mistral state", 16.8),
        ("codestral state without C", 79.8),
        ("mistral model", 14227.1),
        ("codestral model", 14635.0),
    ],
)
def test_the_7b_magnitudes_by_hand(name: str, megaflops: float) -> None:
    """Worked out from the shapes alone, in multiply-adds, as one would on paper."""
    script = ledger_7b()
    mistral, codestral = script["MISTRAL"], script["CODESTRAL"]
    d, inner, b, dt = 4096, 8192, 8 * 128, 128
    by_hand = {
        "mistral layer": 2 * (d * d + 2 * d * 1024 + d * d + 3 * d * 14336),
        "codestral layer": 2 * d * (2 * inner + 2 * b + dt)
        + 2 * 4 * (inner + 2 * b)
        + 5 * inner * 128
        + 2 * inner * d,
        "vocabulary": 2 * d * 32768,
        "mistral state": 2 * 2 * d * 1024,
    }
    by_hand["codestral state without C"] = codestral.skipped("propagate") - 2 * d * b
    by_hand["mistral model"] = 32 * by_hand["mistral layer"] + by_hand["vocabulary"]
    by_hand["codestral model"] = 64 * by_hand["codestral layer"] + by_hand["vocabulary"]
    assert by_hand[name] / 1e6 == pytest.approx(megaflops, abs=0.051)
    assert mistral.projections == by_hand["mistral layer"]
    assert codestral.layer(0) == by_hand["codestral layer"]
    assert unembed_flops(mistral) == unembed_flops(codestral) == by_hand["vocabulary"]
    assert mistral.skipped("propagate") == by_hand["mistral state"]
