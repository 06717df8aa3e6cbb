"""Prompts whose tokens exit early, in generation and scoring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.full_depth import by_definition
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.lossless import decode_lossless
from dynamax_lm.engine.prefill import SharedPrefixes, prefill
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import STACKS, Shape, never, prompts, random_model, shapes
from tests.decoders.hybrid import build_hybrid
from tests.heads.builders import random_maps
from tests.laws import Tally, ask, draw_policy, draw_skipped
from tests.stacks import step

pytestmark = pytest.mark.usefixtures("no_gradients")

KINDS = ["mistral", "mamba2", "hybrid"]
ROWS = [(1, 5, 9, 2, 2, 7), (2,), (8, 8, 3, 1), (11, 4)]
LAYERS = 4


def build(kind: str) -> Any:
    return build_hybrid(LAYERS).stack if kind == "hybrid" else STACKS[kind](random_model(kind))


def run_on(stack: Any, rows: list[tuple[int, ...]], prompt_exit: int) -> Any:
    """A state whose layers above the exit have been run on its hidden states, outputs unused."""
    state, bodies = stack.new_state(len(rows)), [row[:-1] for row in rows]
    token_batch = TokenBatch.of(bodies, range(len(rows)), stack.device, prefill=True)
    run = stack.begin(state, token_batch, "propagate")
    hidden = stack.embed(run)
    for layer in range(prompt_exit):
        hidden = stack.layer(layer, hidden, run)
    for layer in range(prompt_exit, stack.n_layers):
        stack.layer(layer, hidden, run)
    stack.end(state, run)
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_an_exit_at_the_last_layer_is_none(kind: str) -> None:
    """To the last bit, and billed the same."""
    stack = build(kind)
    ours, plain = prefill(stack, ROWS, PromptExit(LAYERS)), prefill(stack, ROWS)
    assert torch.equal(step(stack, ours, len(ROWS)), step(stack, plain, len(ROWS)))
    billed = Ledger(stack.costs, prompt_exit=LAYERS).answer(5, [LAYERS])
    assert billed == Ledger(stack.costs).answer(5, [LAYERS])


@pytest.mark.parametrize("prompt_exit", [1, 3])
def test_keys_and_values_above_are_projections_of_the_exits_hidden_states(
    prompt_exit: int,
) -> None:
    """By transformers' own modules (SwiftKV, arXiv 2410.03960)."""
    model = random_model("mistral")
    (row,) = rows = [(1, 5, 9, 2, 2, 7)]
    state = prefill(STACKS["mistral"](model), rows, PromptExit(prompt_exit))
    ids = torch.tensor([row[:-1]])
    hidden = model.model(ids, output_hidden_states=True).hidden_states[prompt_exit]
    cos, sin = model.model.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
    for layer in range(prompt_exit, LAYERS):
        block = model.model.layers[layer]
        normed = block.input_layernorm(hidden)
        value = block.self_attn.v_proj(normed).view(1, ids.shape[1], 2, -1).transpose(1, 2)
        key = block.self_attn.k_proj(normed).view(1, ids.shape[1], 2, -1).transpose(1, 2)
        first, second = key.chunk(2, dim=-1)
        key = key * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
        kept: Any = state.layers[layer]
        torch.testing.assert_close(kept.keys[:, :, : ids.shape[1]], key)
        torch.testing.assert_close(kept.values[:, :, : ids.shape[1]], value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt_exit", [1, 2, 3])
def test_layers_above_have_the_state_of_running_them_on_the_exits_hidden_states(
    kind: str, prompt_exit: int
) -> None:
    """In a padded batch, and in whatever pieces a prompt is run."""
    stack = build(kind)
    expected = run_on(stack, ROWS, prompt_exit)
    wanted = step(stack, expected, len(ROWS))
    ours = prefill(stack, ROWS, PromptExit(prompt_exit))
    assert ours.seen(LAYERS - 1) == ours.seen(0) == [len(row) - 1 for row in ROWS]
    torch.testing.assert_close(step(stack, ours, len(ROWS)), wanted, rtol=1e-4, atol=1e-5)
    whole = [ROWS[0], (*ROWS[0][:-1], 3, 4, 1)]
    shared = SharedPrefixes(stack, 2, PromptExit(prompt_exit)).prefill(whole)
    again = run_on(stack, whole, prompt_exit)
    torch.testing.assert_close(step(stack, shared, 2), step(stack, again, 2), rtol=1e-4, atol=1e-5)


@settings(max_examples=12)
@given(shape=shapes(), rows=prompts(max_rows=3), data=st.data())
def test_generating_then_scoring_goes_the_same_way_alone_and_in_a_batch(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Laws 4 and 6; the reference is the full-depth model, whose prompts run all layers."""
    stack = STACKS[shape.kind](shape.model())
    drawn, skipped = draw_policy(data, shape.layers), draw_skipped(data, stack)
    prompt_exit, maps = data.draw(st.integers(1, shape.layers)), None
    if prompt_exit < shape.layers - 1 and data.draw(st.booleans()):
        maps = random_maps(stack.costs.width, shape.layers, prompt_exit)
    policy = ExitPolicy(
        drawn.exit_layers if data.draw(st.booleans()) else (),
        drawn.confidence,
        drawn.threshold,
        prompt_exit=prompt_exit,
        prompt_maps=maps,
    )
    options: dict[str, Any] = {"policy": policy, "skipped_state": skipped, "reference": True}
    together = generate(stack, ask(rows), **options)
    flying = generate(stack, ask(rows), flight=Flight(2), **options)
    asked = [ScoreRequest(row, one.trace.tokens) for row, one in zip(rows, together, strict=True)]
    scored = score(stack, asked, **options)
    tally = Tally(policy.threshold)
    for number, full in enumerate(generate(stack, ask(rows))):
        ours, again = together[number].trace, scored[number].trace
        (alone,) = generate(stack, ask(rows[number : number + 1]), **options)
        tally.same(ours, again)
        tally.same(ours, alone.trace)
        tally.same(ours, flying[number].trace)
        assert together[number].reference == full.trace.tokens
        if ours.layers_used == again.layers_used and ours.tokens == alone.trace.tokens:
            assert again.full_depth == ours.full_depth == alone.trace.full_depth
        if ours.agreeing == len(ours):
            assert ours.tokens == full.trace.tokens
        assert ours.prompt_exit == again.prompt_exit == policy.prompt_exit
    tally.check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_of_one_token_has_none_to_exit(kind: str) -> None:
    stack, rows = build(kind), [(3,), (7,)]
    plain = ExitPolicy((1, 2), "top_prob", 0.3)
    early = ExitPolicy((1, 2), "top_prob", 0.3, prompt_exit=1)
    for ours, other in zip(
        generate(stack, ask(rows), policy=early, reference=True),
        generate(stack, ask(rows), policy=plain, reference=True),
        strict=True,
    ):
        assert ours.trace.rows() == other.trace.rows()
        assert ours.reference == other.reference
    costs = stack.costs
    bill = Ledger(costs, exit_layers=(1, 2), prompt_exit=1).answer(0, [1, LAYERS])
    assert bill == Ledger(costs, exit_layers=(1, 2)).answer(0, [1, LAYERS])


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_the_oracle_compares_with_the_untouched_model(kind: str) -> None:
    stack = build(kind)
    policy = ExitPolicy((1, 2, 3), "oracle", 0.5, prompt_exit=1)
    rows = [row for row in ROWS if len(row) > 1]
    asked = [ScoreRequest(row, tuple(range(10, 24))) for row in rows]
    early = 0
    for answer in [
        *score(stack, asked, policy=policy, reference=True),
        *generate(stack, ask(rows, 5), policy=policy, reference=True, flight=Flight(2)),
    ]:
        for row in answer.trace.rows():
            early += row.layers_used < LAYERS
            assert row.layers_used == LAYERS or row.emitted == row.full_depth
    assert early > 0


def test_no_token_after_an_early_prompt_is_full_depths_by_definition() -> None:
    assert by_definition([4, 2, 4], 4, "recompute") == [True, False, True]
    assert by_definition([4, 2, 4], 4, "recompute", prompt_exited=True) == [False] * 3


def test_the_saving_of_a_prompt_counts_in_the_total_alone() -> None:
    """An exit lower down saves more, and each skipped layer costs what its state does."""
    costs = build("mistral").costs
    bills = [Ledger(costs, prompt_exit=layer).answer(9, [LAYERS] * 2) for layer in range(1, 5)]
    for layer, bill in enumerate(bills, start=1):
        skipped = (LAYERS - layer) * (costs.prompt_layer(9) - 9 * costs.kv_projections)
        assert bill.prompt_saved == skipped == costs.prompt(9) - bill.prompt
        assert bill.flops_saved == 0.0
        total = bill.full_depth + costs.prompt(9)
        assert bill.flops_saved_total == pytest.approx(skipped / total)
    with pytest.raises(ValueError, match="not 5"):
        Ledger(costs, prompt_exit=5)
    with pytest.raises(ValueError, match="no maps"):
        Ledger(costs, prompt_maps=8)


def test_lossless_decoding_has_full_depth_prompts() -> None:
    stack = build("mistral")
    request, policy = GenerateRequest((1, 2), 3, never), ExitPolicy((1,), prompt_exit=1)
    with pytest.raises(ValueError, match="prompt exit"):
        decode_lossless(stack, prefill(stack, [(1, 2)]), [request], [Progress()], policy, None)
    assert not FULL_DEPTH.any_exits
