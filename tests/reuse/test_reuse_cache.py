"""A runner changes how often things are computed, and nothing that comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.heads.prompt_maps import PromptMapBank
from dynamax_lm.reuse.origins import Origins
from dynamax_lm.reuse.reuse_cache import tensor_bytes
from dynamax_lm.reuse.reuse_runner import ReuseRunner
from tests.builders import SKIPPED, STACKS, VOCAB, never, prompts, random_model
from tests.heads.builders import maps_of
from tests.stacks import Counting

pytestmark = pytest.mark.usefixtures("no_gradients")

THRESHOLDS = [0.2, 1.0, 0.0]


def policy(
    threshold: float,
    confidence: str = "top_prob",
    prompt_exit: int | None = None,
    prompt_maps: PromptMapBank | None = None,
) -> ExitPolicy:
    return ExitPolicy(
        (1, 2, 3), confidence, threshold, prompt_exit=prompt_exit, prompt_maps=prompt_maps
    )


def keyed(rows: list[tuple[int, ...]]) -> list[GenerateRequest]:
    return [GenerateRequest(row, 5, never, key=str(row)) for row in rows]


@settings(max_examples=6)
@given(
    st.sampled_from(SKIPPED),
    prompts(),
    st.sampled_from(["top_prob", "oracle"]),
    st.sampled_from([0, 4000, 1 << 30]),
    st.integers(0, 99),
    st.sampled_from([None, None, 1, 3]),
)
def test_a_shared_runner_changes_no_answer(
    kind: tuple[str, str],
    rows: list[Any],
    confidence: str,
    most_bytes: int,
    seed: int,
    prompt_exit: int | None,
) -> None:
    stack = STACKS[kind[0]](random_model(kind[0], seed=seed))
    runner = ReuseRunner(most_bytes, derives=False)  # for what is derived see test_derive
    asked = keyed(rows)
    scored = [ScoreRequest(row, (seed % VOCAB, option)) for row in rows for option in (1, 2)]
    for threshold in THRESHOLDS:
        options: dict[str, Any] = {
            "policy": policy(threshold, confidence, prompt_exit),
            "skipped_state": kind[1],
            "reference": True,
        }
        assert runner.generate(stack, asked, **options) == generate(stack, asked, **options)
        assert runner.score(stack, scored, **options) == score(stack, scored, **options)
    assert runner.cache.bytes <= most_bytes
    assert runner.origins == Origins(run=len(THRESHOLDS) * (len(asked) + len(scored)))


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_runs_of_other_prompt_maps_share_no_prompts(kind: str) -> None:
    model = random_model(kind)
    stack, runner = STACKS[kind](model), ReuseRunner()
    asked = keyed([(1, 2, 3, 4), (5, 6, 7)])
    for maps in (None, maps_of(model, 1, 1), maps_of(model, 1, 2, group=2), None):
        own = policy(0.5, prompt_exit=1, prompt_maps=maps)
        found = runner.generate(stack, asked, policy=own, reference=True)
        assert found == generate(stack, asked, policy=own, reference=True)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_second_run_computes_neither_prompts_nor_the_reference_again(kind: str) -> None:
    stack = Counting(STACKS[kind](random_model(kind)))
    runner = ReuseRunner()
    rows = [(1, 2, 3, 4), (5, 6)]
    scored = [ScoreRequest(row, (7, 8)) for row in rows]

    def run() -> tuple[int, int]:
        stack.prompt_slots = stack.slots = 0
        runner.score(stack, scored, policy=policy(0.0), reference=True)
        return stack.prompt_slots, stack.slots

    prompt, whole = run()
    tokens = sum(len(one.continuation) for one in scored)
    assert prompt == 4 * 2 * 3  # layers, rows, longest prompt without its last token
    assert whole == prompt + 4 * tokens + tokens  # full depth, and everyone leaves at layer 1
    assert run() == (0, tokens)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_full_depths_own_answer_is_decoded_once(kind: str) -> None:
    """At threshold 1 the answer is full depth's own: one pass over it measures the noise, once."""
    stack = Counting(STACKS[kind](random_model(kind)))
    runner = ReuseRunner()
    asked = keyed([(1, 2, 3, 4), (5, 6)])
    runner.generate(stack, asked, policy=policy(0.0), reference=True)
    stack.slots = 0
    answers = runner.generate(stack, asked, policy=policy(1.0), reference=True)
    tokens = sum(len(answer.trace) for answer in answers)
    assert stack.slots == 4 * tokens + 4 * tokens
    stack.slots = 0
    runner.generate(stack, asked, policy=policy(1.0, "margin"), reference=True)
    assert stack.slots == 4 * tokens
    assert [answer.reference for answer in answers] == [answer.trace.tokens for answer in answers]


def test_requests_without_a_key_share_prompts_only() -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    runner = ReuseRunner()
    asked = [GenerateRequest((1, 2, 3), 4, never)]
    for _ in range(2):
        runner.generate(stack, asked, policy=policy(0.0), reference=True)
    assert (runner.cache.states.found, runner.cache.states.computed) == (1, 1)
    assert runner.cache.full_depth.lookups.found == 0


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_what_is_kept_cannot_be_changed_by_its_users(kind: str) -> None:
    stack = STACKS[kind](random_model(kind))
    runner = ReuseRunner()
    asked = keyed([(1, 2, 3), (4, 5, 6)])
    first = runner.generate(stack, asked, policy=policy(0.0))
    kept = runner.cache.bytes
    runner.generate(stack, asked)
    assert runner.generate(stack, asked, policy=policy(0.0)) == first
    assert runner.cache.bytes == kept


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_state_weighs_what_its_tensors_weigh(kind: str) -> None:
    stack = STACKS[kind](random_model(kind))
    state = prefill(stack, [(1, 2, 3)])
    kept = [value for layer in state.layers for value in vars(layer).values()]  # type: ignore[attr-defined]
    tensors = [value for value in kept if isinstance(value, torch.Tensor)]
    assert tensor_bytes(state) == sum(one.numel() * one.element_size() for one in tensors) > 0
