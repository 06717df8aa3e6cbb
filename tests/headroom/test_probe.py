"""Ranks are those of shallow models' tokens among the whole model's, computed by transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.headroom.probe import DEEPEST, rank_exits
from dynamax_lm.reuse.reuse_cache import ReuseCache
from tests.builders import STACKS, VOCAB, Shape, never, prompts, random_model, shallow, shapes

pytestmark = pytest.mark.usefixtures("no_gradients")


def last_logits(model: Any, prompt: tuple[int, ...], answer: list[int]) -> torch.Tensor:
    """(T, V) logits that predict each answer token."""
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    logits: torch.Tensor = model(ids).logits[0, len(prompt) - 1 :]
    return logits


@settings(max_examples=15)
@given(shapes(), prompts(max_rows=3), st.data())
def test_ranks_are_those_of_shallow_models(shape: Shape, rows: list[Any], data: Any) -> None:
    model = shape.model()
    token = st.integers(0, VOCAB - 1)
    answers = [data.draw(st.lists(token, min_size=1, max_size=5)) for _ in rows]
    exits = tuple(range(1, shape.layers))
    found = rank_exits(STACKS[shape.kind](model), rows, answers, exits, ReuseCache())
    steps = close = 0
    for prompt, answer, (ranks, _) in zip(rows, answers, found, strict=True):
        full = last_logits(model, prompt, answer)
        for column, layer in enumerate(exits):
            cut = last_logits(shallow(model, layer), prompt, answer)
            for step, token_id in enumerate(cut.argmax(-1).tolist()):
                steps += 1
                gaps = full[step][token_id] - full[step]
                top = cut[step].topk(2).values
                others = torch.cat([gaps[:token_id], gaps[token_id + 1 :]])
                if others.abs().min() <= 1e-4 or top[0] - top[1] <= 1e-4:
                    close += 1
                    continue
                place = 1 + int((gaps < 0).sum())
                assert ranks[step, column] == (place if place <= DEEPEST else 0)
    assert close <= max(1, 0.05 * steps)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_one_token_agrees_as_a_run_that_always_leaves_there_says(kind: str, layer: int) -> None:
    """One answer token has an exact state behind it whatever is skipped after it."""
    stack = STACKS[kind](random_model(kind, seed=5))
    asked = [tuple(range(start, start + 3)) for start in range(1, 40)]
    policy = ExitPolicy((layer,), "top_prob", 0.0)
    scored = score(stack, [ScoreRequest(one, (7,)) for one in asked], policy=policy, reference=True)
    requests = [GenerateRequest(one, 1, never) for one in asked]
    generated = generate(stack, requests, policy=policy, reference=True)
    ranks = rank_exits(stack, asked, [[7]] * len(asked), (1, 2, 3), ReuseCache())
    ours = [int(one.ranks[0, layer - 1] == 1) for one in ranks]
    assert ours == [one.trace.agreeing for one in scored]
    assert ours == [one.trace.agreeing for one in generated]
    assert 0 < sum(ours) < len(ours), "both outcomes must occur for this to mean anything"
