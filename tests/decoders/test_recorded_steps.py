"""Steps of static shape, recorded and replayed, give what the layers give one by one.

Here they are recorded by ``cpu_graphs``, which needs no GPU.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core import catchup
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders import attention_state, recorded_steps
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.segment import run_segment
from tests.builders import SKIPPED, STACKS, Shape, never, prompts, random_model, shapes
from tests.decoders.counted_steps import LONG_AND_SHORT, Counted
from tests.decoders.cpu_graphs import record_on_a_cpu
from tests.laws import Tally, draw_policy, draw_skipped, draw_uneven

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_a_cpu(monkeypatch)


@settings(max_examples=20)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_steps_of_static_shape_change_no_token(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    stack = STACKS[shape.kind](shape.model())
    policy = draw_policy(data, shape.layers)
    skipped = draw_skipped(data, stack)
    requests = draw_uneven(data, rows, 14, 7)
    options: dict[str, Any] = {"policy": policy, "skipped_state": skipped}
    options["flight"] = data.draw(st.sampled_from([Flight(2, 4), None]))
    if not stack.recordable:
        assert dict(shape.options)["attn_implementation"] == "eager"
        return
    steps = Counted(stack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catchup, "MOST_PENDING", data.draw(st.sampled_from([2, 64])))
        patch.setattr(recorded_steps, "_SMALLEST", data.draw(st.sampled_from([4, 256])))
        plain = generate(stack, requests, **options)
        assert stack.record_steps(steps)
        static = generate(stack, requests, **options)
    assert not steps.failed
    assert steps.steps
    tally = Tally(policy.threshold)
    for one, other in zip(plain, static, strict=True):
        tally.same(one.trace, other.trace)
    tally.check()


@pytest.mark.parametrize("kind", STACKS)
def test_recorded_drafts_give_full_depths_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts are recorded where no layer logs its inputs for a withdrawal, as Mamba-2's do."""
    monkeypatch.setattr(recorded_steps, "_SMALLEST", 1)
    monkeypatch.setattr(attention_state, "_BLOCK", 1)
    stack = STACKS[kind](random_model(kind))
    wanted = [one.trace.tokens for one in generate(stack, LONG_AND_SHORT)]
    steps = Counted(stack)
    stack.record_steps(steps)
    rounds = []
    for threshold in (0.0, 0.2):
        policy = ExitPolicy((3,), "top_prob", threshold)
        found = generate(stack, LONG_AND_SHORT, policy=policy, draft_length=3)
        assert [one.trace.tokens for one in found] == wanted
        rounds += [one for answer in found for one in answer.trace.rounds or ()]
    assert sum(one.accepted for one in rounds) > 2
    assert sum(len(one.drafted) - one.accepted for one in rounds) > 2
    assert not steps.failed
    assert bool(steps.graphs) == (kind != "mamba2")


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_rows_of_different_lengths(
    kind: str, skipped: str, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States grow while steps are recorded, and several rows run their pending tokens at once."""
    monkeypatch.setattr(catchup, "MOST_PENDING", 3)
    monkeypatch.setattr(recorded_steps, "_SMALLEST", 1)
    monkeypatch.setattr(attention_state, "_BLOCK", 1)
    stack = STACKS[kind](random_model(kind))
    policy = ExitPolicy((1, 3), "top_prob", threshold)
    options: dict[str, Any] = {"policy": policy, "skipped_state": skipped, "flight": Flight(2, 4)}
    plain = generate(stack, LONG_AND_SHORT, **options)
    steps = Counted(stack)
    stack.record_steps(steps)
    static = generate(stack, LONG_AND_SHORT, **options)
    tally = Tally(threshold)
    for one, other in zip(plain, static, strict=True):
        tally.same(one.trace, other.trace)
    tally.check()
    assert steps.graphs
    assert not steps.failed


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_steps_of_other_numbers_of_rows_are_one_shape(kind: str, skipped: str) -> None:
    """A row that stands in for missing ones changes no other, nor itself twice."""
    stack = STACKS[kind](random_model(kind))
    policy = ExitPolicy((1, 3), "top_prob", 0.04)
    requests = [GenerateRequest((7, 3, 5 + row), 9 + row, never) for row in range(7)]
    wanted = generate(stack, requests, policy=policy, skipped_state=skipped)
    tally, steps = Tally(policy.threshold), Counted(stack)
    assert stack.record_steps(steps)
    found = generate(stack, requests, policy=policy, skipped_state=skipped, flight=Flight(3, 7))
    for one, other in zip(wanted, found, strict=True):
        tally.same(one.trace, other.trace)
    tally.check()
    assert steps.rows == {1, 2, 4}


@pytest.mark.parametrize("skipped", ["copy_kv", "propagate"])
def test_the_layer_below_may_have_moved(skipped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long row lets the first layer's cache grow, from which the next layer copies."""
    monkeypatch.setattr(recorded_steps, "_SMALLEST", 8)
    monkeypatch.setattr(attention_state, "_BLOCK", 1)
    stack = STACKS["mistral"](random_model("mistral", 3))

    def keys() -> torch.Tensor:
        state: Any = stack.new_state(2)
        stack.put(state, [0, 1], prefill(stack, [(5, 9, 2) * 4, (3, 1)]), [0, 1])

        def first_layer(row: int, token: int) -> torch.Tensor:
            token_batch = TokenBatch.of([[token]], [row], stack.device)
            return run_segment(stack, state, token_batch, range(1), None, skipped)

        for tokens in ([7, 2], [4, 6], [8, 3]):  # run, recorded, replayed
            if tokens[0] == 8:
                first_layer(0, 5)
            hidden = torch.cat([first_layer(1, token) for token in tokens])
            token_batch = TokenBatch.of_pending([tokens], [1], stack.device)
            run_segment(stack, state, token_batch, range(1, 3), hidden, skipped, running=1)
        return torch.stack([layer.keys[1, :, :7] for layer in state.layers])

    wanted = keys()
    steps = Counted(stack)
    stack.record_steps(steps)
    torch.testing.assert_close(keys(), wanted)
    assert steps.graphs >= 2


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("static", [False, True])
def test_a_state_goes_with_its_last_reference(kind: str, static: bool) -> None:
    stack = STACKS[kind](random_model(kind))
    if static:
        stack.record_steps(Counted(stack, records=False))
    policy = ExitPolicy((1, 2), "top_prob", 0.2)
    gc.collect()
    gc.disable()
    try:
        state = prefill(stack, [(1, 2, 3), (4,)])
        rows = [Progress(), Progress()]
        requests = [GenerateRequest((1, 2, 3), 6, never), GenerateRequest((4,), 6, never)]
        decode(stack, state, requests, rows, policy, "propagate", None)
        gone = weakref.ref(state)
        del state
        assert gone() is None
    finally:
        gc.enable()
