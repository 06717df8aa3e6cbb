"""What is not recorded: layers, policies, hooks and autocast that a recording would pass over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.skipped_states import SkippedFacts, SkippedState, register_skipped_state
from dynamax_lm.decoders import recorded_steps
from dynamax_lm.decoders.attention import AttentionKind, AttentionLayer
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from tests.builders import STACKS, never, random_model
from tests.decoders.counted_steps import LONG_AND_SHORT, Counted
from tests.decoders.cpu_graphs import record_on_a_cpu
from tests.decoders.tiny_families import DECODERS, tiny_model
from tests.laws import Tally

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_a_cpu(monkeypatch)


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


@pytest.mark.parametrize("family", DECODERS)
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


class OnceEach(SkippedState):
    """``propagate``, for tokens that are all different; and it reads them."""

    facts = SkippedFacts(layers=(LayerCosts,), flops=lambda costs: 0)

    def skip(self, layer: Any, state: Any, below: Any, context: Any) -> Any:
        slots = context.run.frozen.tolist()
        assert len(set(slots)) == len(slots)
        return layer.propagate(state, below, context)


def test_a_policy_from_outside_is_not_recorded() -> None:
    register_skipped_state(replace(OnceEach.facts, name="once_each"), OnceEach())
    stack = STACKS["mistral"](random_model("mistral"))
    options: dict[str, Any] = {"policy": ExitPolicy((1, 2), "top_prob", 0.1)}
    plain = generate(stack, LONG_AND_SHORT, **options)
    steps = Counted(stack)
    stack.record_steps(steps)
    found = generate(stack, LONG_AND_SHORT, skipped_state="once_each", **options)
    assert [one.trace.tokens for one in found] == [one.trace.tokens for one in plain]
    assert steps.graphs  # of steps without exited tokens
    assert not steps.failed


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *[("mistral", f"model.{one}") for one in ("embed_tokens", "rotary_emb")],
        *[
            ("mistral", f"model.layers.1.{one}")
            for one in ("self_attn.q_proj", "mlp.act_fn", "input_layernorm")
        ],
        *[("mamba2", f"backbone.layers.1.{one}") for one in ("mixer.in_proj", "norm")],
    ],
)
def test_hooked_modules_are_called(kind: str, name: str) -> None:
    model = random_model(kind)
    stack = STACKS[kind](model)
    steps = Counted(stack)
    stack.record_steps(steps)
    requests = [GenerateRequest((3, 1), 9, never)]
    generate(stack, requests)
    recorded = steps.graphs
    assert recorded
    calls: list[Any] = []
    handle = model.get_submodule(name).register_forward_hook(lambda *given: calls.append(1))
    assert not stack.recordable
    generate(stack, requests)
    assert len(calls) >= 9
    assert steps.graphs == recorded
    handle.remove()
    assert stack.recordable


def test_classes_derived_from_recordable_ones_are_not() -> None:
    model = random_model("mistral")
    stack = STACKS["mistral"](model)

    class OtherLayer(AttentionLayer):
        """A layer from outside the package."""

    class OtherKind(AttentionKind):
        """What it shares."""

        def begin(self, *given: Any) -> Any:
            return super().begin(*given)

    own: Any = stack.layers[0]
    arguments = (model.model.layers[0], own.kind, stack.arithmetic)
    kind = OtherKind(model.config, model.model.rotary_emb, model.model.embed_tokens)
    assert stack.with_layers([AttentionLayer(*arguments), *stack.layers[1:]]).recordable
    assert not stack.with_layers([OtherLayer(*arguments), *stack.layers[1:]]).recordable
    layer = AttentionLayer(arguments[0], kind, stack.arithmetic)
    assert not stack.with_layers([layer, *stack.layers[1:]]).recordable


def test_steps_under_autocast_run_as_they_are() -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    steps = Counted(stack)
    stack.record_steps(steps)
    with torch.autocast("cpu", torch.bfloat16):
        generate(stack, LONG_AND_SHORT[1:2])
    assert not steps.steps


def test_a_recording_that_fails_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = STACKS["mamba2"](random_model("mamba2"))
    plain = generate(stack, LONG_AND_SHORT[1:])
    steps = Counted(stack)
    assert stack.record_steps(steps)
    assert stack.records_steps

    def refused(*given: Any, **named: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded_steps, "recording", refused)
    found = generate(stack, LONG_AND_SHORT[1:])
    assert [one.trace.tokens for one in found] == [one.trace.tokens for one in plain]
    assert not stack.records_steps
    assert steps.steps == 2


def test_without_a_gpu_nothing_is_recorded() -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    assert stack.recordable
    assert not stack.record_steps()
