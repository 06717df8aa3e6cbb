"""A decoder is a list of layers, of one kind or of several: the laws, on a hybrid of two kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamax_lm.core.costs import HybridCosts, LayerCosts, skipped_states
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.attention import AttentionLayer
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.mamba2 import Mamba2Layer
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import STACKS, VOCAB, catch_up, make_config, prompts, random_model
from tests.decoders.hybrid import Hybrid, build_hybrid
from tests.laws import Tally, ask, draw_policy
from tests.stacks import Keep, remembered

pytestmark = pytest.mark.usefixtures("no_gradients")

LAYERS = 5


seeds = st.integers(0, 1000)


def forward(hybrid: Hybrid, row: tuple[int, ...]) -> Tensor:
    """(T, V) logits of transformers' modules, called one after the other on the whole row."""
    model = hybrid.mistral.model
    hidden = model.embed_tokens(torch.tensor([row]))
    positions = torch.arange(len(row))[None]
    angles = model.rotary_emb(hidden, positions)
    for index, layer in enumerate(hybrid.layers):
        if index % 2:
            hidden = layer(hidden)
        else:
            hidden = layer(hidden, attention_mask=None, position_embeddings=angles)
    return hybrid.mistral.lm_head(model.norm(hidden))[0].float()  # type: ignore[no-any-return]


def continue_by_hand(hybrid: Hybrid, row: tuple[int, ...], new: int) -> tuple[int, ...]:
    answer: list[int] = []
    for _ in range(new):
        answer.append(int(forward(hybrid, (*row, *answer))[-1].argmax()))
    return tuple(answer)


@settings(max_examples=15)
@given(seed=seeds, row=prompts(max_rows=1, longest=12))
def test_the_layers_of_a_hybrid_are_transformers_own(seed: int, row: list[tuple[int, ...]]) -> None:
    hybrid = build_hybrid(LAYERS, seed=seed, trusted=True)
    stack = hybrid.stack
    kept = Keep(len(row[0]))
    token_batch = TokenBatch.of(row, [0], stack.device, prefill=True)
    run_token_batch(stack, stack.new_state(1), token_batch, kept)
    assert torch.equal(kept.logits, forward(hybrid, row[0]))


@settings(max_examples=10)
@given(seed=seeds, rows=prompts())
def test_a_hybrid_that_never_exits_runs_all_layers(seed: int, rows: list[tuple[int, ...]]) -> None:
    """With threshold 1, over padded batches and step by step."""
    hybrid = build_hybrid(LAYERS, seed=seed)
    policy = ExitPolicy((1, 2, 4), "margin", 1.0)
    for row, answer in zip(rows, generate(hybrid.stack, ask(rows, 4), policy=policy), strict=True):
        assert answer.trace.tokens == continue_by_hand(hybrid, row, 4)
        assert set(answer.trace.layers_used) == {LAYERS}


@settings(max_examples=25)
@given(seed=seeds, rows=prompts(), data=st.data())
def test_neighbours_and_scoring_change_nothing_in_a_hybrid(
    seed: int, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Laws 4 and 6 for every skipped-state policy that all its layers have."""
    stack = build_hybrid(LAYERS, seed=seed).stack
    options: Any = {
        "policy": draw_policy(data, LAYERS),
        "skipped_state": data.draw(st.sampled_from(sorted(stack.skipped_states))),
    }
    together = generate(stack, ask(rows), **options)
    requests = [
        ScoreRequest(row, answer.trace.tokens) for row, answer in zip(rows, together, strict=True)
    ]
    scored = score(stack, requests, **options)
    tally = Tally(options["policy"].threshold)
    for row, answer, again in zip(rows, together, scored, strict=True):
        [alone] = generate(stack, ask([row]), **options)
        tally.same(answer.trace, alone.trace)
        tally.same(answer.trace, again.trace)
    tally.check()


@settings(max_examples=25)
@given(seed=seeds, rows=prompts(min_rows=2), depth=st.integers(1, LAYERS - 1), data=st.data())
def test_propagate_gives_each_layer_what_its_own_kind_would(
    seed: int, rows: list[tuple[int, ...]], depth: int, data: st.DataObject
) -> None:
    """A skipped layer's state is what that layer alone leaves when it runs on the frozen states."""
    stack = build_hybrid(LAYERS, seed=seed).stack
    state = prefill(stack, rows)
    before = stack.take(state, range(len(rows)))
    tokens = [data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3)) for _ in rows]
    token_batch = TokenBatch.of(tokens, range(len(rows)), stack.device)
    run = stack.begin(state, token_batch, "propagate")
    hidden = stack.embed(run)
    for index in range(LAYERS):
        if index == depth:
            frozen = hidden
            run.freeze(torch.ones(hidden.shape[0], dtype=torch.bool), hidden)
            hidden = hidden[:0]
        hidden = stack.layer(index, hidden, run)
    stack.end(state, run)
    for index in range(depth, LAYERS):
        alone = only(stack, index)
        own = alone.new_state(len(rows))
        own.layers, own.rows = [before.layers[index]], before.rows.copy()
        alone_run = alone.begin(own, token_batch, "propagate")
        alone.layer(0, frozen, alone_run)
        alone.end(own, alone_run)
        assert state.seen(index) == own.seen(0)
        skipped = stack.take(state, range(len(rows)))
        skipped.layers = [state.layers[index]]
        for ours, theirs in zip(remembered(skipped), remembered(own), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def only(stack: Decoder, index: int) -> Decoder:
    """A decoder of one of the layers of ``stack``."""
    return Decoder(
        [stack.layers[index]],
        embedding=torch.nn.Embedding(VOCAB, 16),
        norm=torch.nn.Identity(),
        head=LinearPlace(torch.nn.Module(), "none"),
        vocab_size=VOCAB,
        arithmetic=stack.arithmetic,
    )


@settings(max_examples=15)
@given(seed=seeds, rows=prompts(min_rows=2, longest=8), data=st.data())
def test_a_hybrid_state_is_marked_rewound_taken_and_flushed(
    seed: int, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Also with pending tokens; once these have run all layers, the state is full depth's."""
    stack = build_hybrid(LAYERS, seed=seed).stack
    everyone = range(len(rows))
    policy = ExitPolicy((data.draw(st.integers(1, LAYERS - 1)),), "top_prob", 0.0)
    exact, state = prefill(stack, rows), prefill(stack, rows)
    token_batch = TokenBatch.of([(3, 4)] * len(rows), everyone, stack.device)
    options: Any = {"policy": policy, "skipped_state": "recompute"}
    run_token_batch(stack, exact, token_batch, None)
    run_token_batch(stack, state, token_batch, Keep(2 * len(rows)), **options)
    assert all(state.pending.count(row) for row in everyone)
    mark, seen = stack.mark(state), [state.seen(layer) for layer in range(LAYERS)]
    first, again = Keep(2 * len(rows)), Keep(2 * len(rows))
    run_token_batch(stack, state, token_batch, first)
    stack.rewind(state, mark)
    assert [state.seen(layer) for layer in range(LAYERS)] == seen
    copied = stack.take(state, [len(rows) - 1, 0])
    run_token_batch(stack, state, token_batch, again)
    assert torch.equal(first.logits, again.logits)
    catch_up(stack, copied, [0, 1])
    for ours, full in zip(
        remembered(copied), remembered(stack.take(exact, [len(rows) - 1, 0])), strict=True
    ):
        torch.testing.assert_close(ours, full, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [AttentionLayer, Mamba2Layer])
def test_every_policy_of_a_layer_has_a_cost_and_the_other_way_round(layer: Any) -> None:
    costs = AttentionCosts if layer is AttentionLayer else Mamba2Costs
    assert layer.skipped.keys() == costs.SKIPPED.keys()


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_decoder_has_the_policies_that_all_its_layers_have(kind: str) -> None:
    model = random_model(kind, 3)
    stack = STACKS[kind](model)
    costs = Mamba2Costs if kind == "mamba2" else AttentionCosts
    assert stack.skipped_states == set(skipped_states(costs))
    assert stack.costs == costs.from_config(model.config)
    both = build_hybrid(3).stack
    assert both.skipped_states == set(skipped_states(AttentionCosts, Mamba2Costs))
    assert both.skipped_states < stack.skipped_states


KINDS: list[LayerCosts] = [
    AttentionCosts.from_config(make_config("mistral", 9, sliding_window=6)),
    Mamba2Costs.from_config(make_config("mamba2", 7)),
]


@given(
    st.lists(st.sampled_from(KINDS), min_size=2, max_size=6),
    st.integers(0, 9),
    st.sampled_from(["propagate", "recompute"]),
    st.data(),
)
def test_a_hybrid_is_billed_layer_by_layer(
    kinds: list[LayerCosts], prompt: int, skipped_state: str, data: st.DataObject
) -> None:
    costs, depths = HybridCosts(tuple(kinds)), list(range(1, len(kinds) + 1))
    used = data.draw(st.lists(st.sampled_from(depths), min_size=1, max_size=6))
    ledger = Ledger(costs, exit_layers=depths[:-1], skipped_state=skipped_state)
    bill = ledger.answer(prompt, used)
    places = list(enumerate(used, start=prompt))
    assert bill.prompt == sum(kind.layer(position) for kind in kinds for position in range(prompt))
    assert bill.layers == sum(
        kinds[n].layer(place) for place, depth in places for n in range(depth)
    )
    skipped = [kind.skipped(skipped_state) for _, depth in places for kind in kinds[depth:]]
    assert bill.propagation == sum(skipped)
    final = [max(used[token:]) for token in range(len(used))]
    assert bill.layers + bill.recomputation == sum(
        kinds[n].layer(prompt + token)
        for token, depth in enumerate(used if skipped_state == "propagate" else final)
        for n in range(depth)
    )
    whole = sum(kind.layer(place) for place, _ in places for kind in kinds)
    assert bill.full_depth == whole + len(used) * Ledger(costs).answer(0, [len(kinds)]).projection


@given(st.sampled_from(KINDS), st.integers(0, 9), st.data())
def test_alike_layers_cost_the_same_in_either_form(
    kind: LayerCosts, prompt: int, data: st.DataObject
) -> None:
    state = data.draw(st.sampled_from(skipped_states(type(kind))))
    exits = (2, 4)
    used = data.draw(st.lists(st.sampled_from([*exits, kind.n_layers]), min_size=1))
    options: Any = {"exit_layers": exits, "skipped_state": state}
    listed = Ledger(HybridCosts((kind,) * kind.n_layers), **options).answer(prompt, used)
    assert listed == Ledger(kind, **options).answer(prompt, used)


def test_a_policy_that_one_layer_lacks_cannot_be_billed() -> None:
    with pytest.raises(ValueError, match="Mamba-2 has no skipped_state 'copy_kv'"):
        Ledger(HybridCosts(tuple(KINDS)), exit_layers=(1,), skipped_state="copy_kv")
