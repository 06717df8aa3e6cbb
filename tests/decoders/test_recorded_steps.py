"""Steps of static shape give what the layers give one by one; on a GPU they are recorded.

Here they run unrecorded, which needs no GPU.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core import catchup
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.decoders.families import FAMILIES
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.decoders.recorded_steps import RecordedSteps
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest, Progress
from tests.builders import STACKS, Shape, never, prompts, random_model, shapes
from tests.decoders.tiny_families import tiny_model
from tests.engine.test_laws import Tally, draw_policy, draw_skipped

pytestmark = pytest.mark.usefixtures("no_gradients")

NOT_RECORDABLE = {
    "gemma2": "a soft cap",
    "mixtral": "experts",
    "qwen3_moe": "experts",
    "mamba": "Mamba-1",
    "falcon_mamba": "Mamba-1",
    "falcon_h1": "parallel mixers",
    "zamba2": "a shared block",
    "granitemoehybrid": "experts",
    "jamba": "Mamba-1",
    "nemotron_h": "feed-forward layers alone",
}


class Counted(RecordedSteps):
    """Counts the steps that are of static shape."""

    def __init__(self, decoder: Any) -> None:
        super().__init__(decoder, records=False)
        self.steps = 0

    def run(self, *given: Any) -> Any:
        output = super().run(*given)
        self.steps += output is not None
        return output


@settings(max_examples=30)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_steps_of_static_shape_change_no_token(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    stack = STACKS[shape.kind](shape.model())
    policy = draw_policy(data, shape.layers)
    skipped = draw_skipped(data, stack)
    lengths = data.draw(st.lists(st.integers(1, 14), min_size=len(rows), max_size=7))
    requests = [
        GenerateRequest(rows[number % len(rows)], new, never) for number, new in enumerate(lengths)
    ]
    options: dict[str, Any] = {"policy": policy, "skipped_state": skipped}
    options["flight"] = data.draw(st.sampled_from([Flight(2, 4), None]))
    if not stack.recordable:
        assert dict(shape.options)["attn_implementation"] == "eager"
        return
    steps = Counted(stack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catchup, "MOST_PENDING", data.draw(st.sampled_from([2, 64])))
        plain = generate(stack, requests, **options)
        assert stack.record_steps(steps)
        static = generate(stack, requests, **options)
    assert steps.steps or sum(lengths) == 0
    tally = Tally(policy.threshold)
    for one, other in zip(plain, static, strict=True):
        tally.same(one.trace, other.trace)
    tally.check()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_recordable_family(family: str) -> None:
    stack = FamilyStack(tiny_model(family))
    assert stack.recordable != (family in NOT_RECORDABLE)
    if not stack.recordable:
        return
    requests = [GenerateRequest((3, 1, 4, 1, 5)[:n], 7, never) for n in (1, 3, 5)]
    policy = ExitPolicy((1, 2, 3), "top_prob", 0.1)
    plain = generate(stack, requests, policy=policy)
    steps = Counted(stack)
    stack.record_steps(steps)
    static = generate(stack, requests, policy=policy)
    tally = Tally(0.1)
    for one, other in zip(plain, static, strict=True):
        tally.same(one.trace, other.trace)
    tally.check()
    assert steps.steps >= 7


def test_without_a_gpu_nothing_is_recorded() -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    assert stack.recordable
    assert not stack.record_steps()


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("static", [False, True])
def test_a_state_goes_with_its_last_reference(kind: str, static: bool) -> None:
    stack = STACKS[kind](random_model(kind))
    if static:
        stack.record_steps(Counted(stack))
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
