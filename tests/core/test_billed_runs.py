"""The bill of a real run with exits, against torch's flop counter."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Mamba2Config

from dynamax_lm.core.catchup import final_depths
from dynamax_lm.core.costs import LayerCosts, norm_flops
from dynamax_lm.core.ledger import Ledger
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
from tests.decoders.counted_flops import (
    Seen,
    attention_configs,
    attention_model,
    mamba2_configs,
    mamba2_model,
    models,
    rotary,
    seen,
)
from tests.decoders.transformers_own import transformers_own
from tests.heads.builders import heads_of, kinds, random_maps

LOGIT_MEASURES = ("top_prob", "margin", "entropy", "patience")


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
    confidence = data.draw(st.sampled_from([*LOGIT_MEASURES, "saturation"]))
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
