"""Lossless generation gives full depth's text, greedy or drawn, whatever is drafted."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.draft_length import AUTO
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.models.sampling import RowChooser, generation_config
from tests.builders import STACKS, never, prompts, random_model
from tests.engine.drafts import KINDS, LAYERS, MEASURES, check_rounds, draw_requests, stops_on
from tests.heads.builders import CLASSIFIERS, heads_of

pytestmark = pytest.mark.usefixtures("no_gradients")


@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    rows=prompts(),
    threshold=st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9, 1.0]),
    measure=st.sampled_from(MEASURES),
    exit_layer=st.integers(1, LAYERS - 1),
    draft_length=st.sampled_from([AUTO, 1, 2, 5, 40]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_text_is_full_depths(
    kind: str,
    rows: list[tuple[int, ...]],
    threshold: float,
    measure: str,
    exit_layer: int,
    draft_length: int,
    seed: int,
    data: st.DataObject,
) -> None:
    stack = STACKS[kind](random_model(kind, LAYERS, seed=seed))
    asked = draw_requests(data, rows)
    policy = ExitPolicy((exit_layer,), measure, threshold)
    ours = generate(stack, asked, policy=policy, reference=True, draft_length=draft_length)
    full = generate(stack, asked)
    for answer, theirs in zip(ours, full, strict=True):
        assert answer.trace.tokens == theirs.trace.tokens
        assert answer.reference == answer.trace.full_depth == answer.trace.tokens
        assert set(answer.trace.layers_used) == {LAYERS}
        check_rounds(answer)


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_are_accepted_and_rejected_here(kind: str) -> None:
    """Else the law above would prove little."""
    accepted = rejected = 0
    for seed in range(4):
        stack = STACKS[kind](random_model(kind, LAYERS, seed=seed))
        asked = [GenerateRequest((1, 2, 3), 24, never), GenerateRequest((7,), 24, never)]
        policy = ExitPolicy((3,), "top_prob", 0.0)
        for answer in generate(stack, asked, policy=policy, draft_length=4):
            accepted += sum(one.accepted for one in answer.trace.rounds or ())
            rejected += sum(len(one.drafted) - one.accepted for one in answer.trace.rounds or ())
    assert accepted > 10
    assert rejected > 10


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_trained_heads_draft(kind: str, classifier: str) -> None:
    model = random_model(kind, LAYERS, seed=3)
    stack = STACKS[kind](model)
    heads = heads_of(model, (2,), 1, classifier=classifier, translator="low_rank")
    asked = [GenerateRequest(row, 9, never) for row in ((1, 5, 9, 2), (2,), (8, 8, 3))]
    for threshold in (0.0, 0.5):
        policy = ExitPolicy((2,), "head", threshold)
        ours = generate(stack, asked, policy=policy, heads=heads, draft_length=AUTO)
        for answer, full in zip(ours, generate(stack, asked), strict=True):
            assert answer.trace.tokens == full.trace.tokens


def test_drawn_tokens_are_full_depths_draws() -> None:
    """The same random numbers at the exit and at full depth: the same text as full depth draws."""

    def chooser(seed: int) -> Any:
        def choose(answer: Any, logits: torch.Tensor) -> int:
            rng = random.Random(f"{seed} {list(answer)}")
            weights = logits[0].double().softmax(-1).tolist()
            return rng.choices(range(len(weights)), weights)[0]

        return choose

    for kind in ("mistral", "mamba2"):
        stack = STACKS[kind](random_model(kind, LAYERS, seed=2))
        asked = [GenerateRequest((1, 2), 10, never, chooser=chooser(seed)) for seed in range(6)]
        policy = ExitPolicy((3,), "top_prob", 0.0)
        ours = generate(stack, asked, policy=policy, draft_length=4)
        full = generate(stack, asked)
        assert [one.trace.tokens for one in ours] == [one.trace.tokens for one in full]
        assert len({one.trace.tokens for one in ours}) > 3
        assert sum(r.accepted for one in ours for r in one.trace.rounds or ()) > 0


def test_successive_draws_have_full_depths_joint_distribution() -> None:
    """Three tokens after one prompt, over many seeds, against the model's exact probabilities."""
    model = random_model("mistral", 2, seed=24, vocab_size=3)
    prompt, draws, temperature = (1, 2), 600, 1.5
    texts = list(product(range(3), repeat=3))
    logits = model(torch.tensor([prompt + text for text in texts])).logits.double()
    steps = (logits / temperature).log_softmax(-1)
    of_each = steps[:, 1:-1].gather(-1, torch.tensor(texts)[:, :, None])
    expected = draws * of_each.sum((1, 2)).exp()
    assert expected.min() > 5, "else chi-square does not hold"

    options = {"do_sample": True, "temperature": temperature, "top_k": 0}
    config = generation_config(model, options)
    choosers = [RowChooser(model, config, prompt, seed) for seed in range(draws)]
    asked = [GenerateRequest(prompt, 3, never, one) for one in choosers]
    policy = ExitPolicy((1,), "top_prob", 0.0)
    answers = generate(STACKS["mistral"](model), asked, policy=policy, draft_length=2)
    rounds = [one for answer in answers for one in answer.trace.rounds or ()]
    accepted = sum(one.accepted for one in rounds)
    assert min(accepted, sum(len(one.drafted) for one in rounds) - accepted) > draws / 4
    observed = Counter(answer.trace.tokens for answer in answers)
    assert chisquare([observed[text] for text in texts], expected.numpy()).pvalue > 1e-6


def test_several_exits_are_refused() -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    with pytest.raises(ValueError, match="one exit drafts"):
        generate(
            stack,
            [GenerateRequest((1,), 2, never)],
            policy=ExitPolicy((1, 2), "top_prob", 0.5),
            draft_length=1,
        )


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_thousands_of_prompts(kind: str) -> None:
    rng = random.Random(11)
    done = 0
    while done < 2500:
        layers = rng.choice([2, 4, 6])
        stack = STACKS[kind](random_model(kind, layers, seed=rng.randrange(10**6)))
        asked = [
            GenerateRequest(
                tuple(rng.randrange(61) for _ in range(rng.randint(1, 12))),
                rng.randint(1, 24),
                rng.choice([never, stops_on(7)]),
            )
            for _ in range(rng.randint(1, 8))
        ]
        policy = ExitPolicy(
            (rng.randint(1, layers - 1),), rng.choice(MEASURES), rng.choice([0.0, 0.1, 0.3, 0.6])
        )
        ours = generate(stack, asked, policy=policy, draft_length=rng.choice([AUTO, 1, 3, 8]))
        full = generate(stack, asked)
        assert [one.trace.tokens for one in ours] == [one.trace.tokens for one in full]
        done += len(asked)
