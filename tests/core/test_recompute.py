"""``recompute`` leaves exactly the full-depth state, and is billed for what it really runs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core import catchup
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import STACKS, Shape, catch_up, prompts, random_model, shapes
from tests.laws import Ignore, ask, draw_policy, rows_that_enter
from tests.stacks import remembered

pytestmark = pytest.mark.usefixtures("no_gradients")

STEPS = 6


@settings(max_examples=40)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_flushed_it_is_the_full_depth_state(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 9, for rows that stop at different steps, and for several tokens a row at once."""
    stack = STACKS[shape.kind](shape.model())
    policy = draw_policy(data, shape.layers)
    if policy.confidence == "oracle":
        return
    exact, state = prefill(stack, rows), prefill(stack, rows)
    active = list(range(len(rows)))
    waited = False
    for step in range(STEPS):
        tokens = [[step + 3] * data.draw(st.integers(1, 3)) for _ in active]
        token_batch = TokenBatch.of(tokens, active, stack.device)
        run_token_batch(stack, exact, token_batch, None)
        run_token_batch(
            stack, state, token_batch, Ignore(), policy=policy, skipped_state="recompute"
        )
        waited |= any(state.pending.count(row) for row in active)
        active = [row for row in active if data.draw(st.integers(0, 5))] or active
    if policy.threshold == 0.0:
        assert waited
    catch_up(stack, state, range(len(rows)))
    for layer in range(shape.layers):
        assert state.seen(layer) == exact.seen(layer)
    for ours, full in zip(remembered(state), remembered(exact), strict=True):
        torch.testing.assert_close(ours, full, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_a_lower_threshold_never_leaves_later(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 7 for whole continuations: under exact state an earlier exit changes nothing later."""
    stack = STACKS[shape.kind](shape.model())
    drawn = draw_policy(data, shape.layers)
    requests = [ScoreRequest(row, (4, 9, 2, 7)) for row in rows]
    depths, sure = [], []
    for threshold in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0):
        policy = ExitPolicy(drawn.exit_layers, drawn.confidence, threshold)
        traces = [
            answer.trace
            for answer in score(stack, requests, policy=policy, skipped_state="recompute")
        ]
        depths.append([used for trace in traces for used in trace.layers_used])
        sure.append([value for trace in traces for value in trace.confidence])
    for low, high in pairwise(zip(depths, sure, strict=True)):
        for a, b, *near in zip(low[0], high[0], low[1], high[1], strict=True):
            assert a <= b or any(
                abs(value - threshold) < 1e-4
                for value in near
                if value is not None
                for threshold in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0)
            )


@pytest.mark.parametrize("most", [2, 64])
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_the_bill_is_what_enters_the_layers(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 8, with and without a crowd that is run to the end; nothing is run after the last."""
    monkeypatch.setattr(catchup, "MOST_PENDING", most)
    model = random_model(kind, 6, seed=3)
    stack = STACKS[kind](model)
    exits = (1, 3, 4, 5)
    costs = (Mamba2Costs if kind == "mamba2" else AttentionCosts).from_config(model.config)
    ledger = Ledger(costs, exit_layers=exits, skipped_state="recompute")
    recomputed, crowds = 0, 0
    for threshold in (0.1, 0.2, 0.33, 0.5, 0.7):
        policy = ExitPolicy(exits, "top_prob", threshold)
        for row in [(1, 5, 9, 2, 2, 7), (2,), (8, 8, 3, 1)]:
            with rows_that_enter(stack, kind) as counts:
                [answer] = generate(stack, ask([row], 12), policy=policy, skipped_state="recompute")
            trace = answer.trace
            final = catchup.final_depths(trace.layers_used, 6)
            prompt = len(row) - 1
            assert counts == [prompt + sum(depth > layer for depth in final) for layer in range(6)]
            bill = ledger.answer(prompt, trace.layers_used)
            places = enumerate(final, start=prompt)
            assert bill.layers + bill.recomputation == sum(
                depth * costs.layer(position) for position, depth in places
            )
            assert bill.propagation == 0
            recomputed += bill.recomputation
            crowds += final != [max(trace.layers_used[token:]) for token in range(len(final))]
    assert recomputed > 0
    assert (crowds > 0) == (most == 2)
