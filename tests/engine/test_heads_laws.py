"""The engine's laws where trained heads decide, over kinds, widths, states and batches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import (
    SKIPPED,
    STACKS,
    Shape,
    never,
    prompts,
    random_model,
    shallow,
    shapes,
    uneven_requests,
)
from tests.heads.builders import CLASSIFIERS, heads_of, kinds, mixed_exits
from tests.laws import (
    ask,
    depths_of,
    draw_skipped,
    goes_the_same_way_in_scoring,
    neighbours_do_not_matter,
)

pytestmark = pytest.mark.usefixtures("no_gradients")

THRESHOLDS = [0.0, 0.3, 0.5, 0.7, 1.0]
MEASURES = ["head", "head", "top_prob", "saturation", "patience", "oracle"]


def draw_heads(data: st.DataObject, shape: Shape, model: Any) -> tuple[Any, ExitPolicy]:
    """Random heads, and a policy over some of their exits."""
    layers = st.sets(st.integers(1, shape.layers - 1), min_size=1)
    exits = tuple(sorted(data.draw(layers)))
    options = data.draw(kinds(model.config.hidden_size))
    heads = heads_of(model, exits, data.draw(st.integers(0, 99)), **options)
    used = tuple(sorted(data.draw(st.sets(st.sampled_from(exits), min_size=1))))
    measure = data.draw(st.sampled_from([m for m in MEASURES if m != "patience" or len(used) > 1]))
    return heads, ExitPolicy(used, measure, data.draw(st.sampled_from(THRESHOLDS)))


def draw_run(
    data: st.DataObject, shape: Shape, rows: list[tuple[int, ...]]
) -> tuple[Any, list[GenerateRequest], dict[str, Any]]:
    """A decoder, a request for each row, and options of a run with heads."""
    model = shape.model()
    stack = STACKS[shape.kind](model)
    heads, policy = draw_heads(data, shape, model)
    skipped = draw_skipped(data, stack)
    requests = [GenerateRequest(row, data.draw(st.integers(1, 7)), never) for row in rows]
    return stack, requests, {"policy": policy, "skipped_state": skipped, "heads": heads}


@settings(max_examples=20)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_generating_then_scoring_goes_the_same_way(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 4."""
    stack, requests, options = draw_run(data, shape, rows)
    goes_the_same_way_in_scoring(stack, requests, reference=True, **options)


@pytest.mark.usefixtures("narrow_slices")
@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_every_kind_and_state_scores_as_it_generates(
    kind: str, skipped: str, classifier: str
) -> None:
    """Law 4 with none left out, rows that end at different times, and slices that cut rows."""
    stack, heads = mixed_exits(kind, classifier)
    requests, _ = uneven_requests()
    depths: set[int] = set()
    for threshold in (0.3, 0.5, 0.7):
        policy = ExitPolicy((1, 3, 4, 5), "head", threshold)
        options = {"policy": policy, "skipped_state": skipped, "heads": heads}
        depths |= depths_of(goes_the_same_way_in_scoring(stack, requests, **options))
    assert len(depths) > 2, "the exits must really be mixed for this to prove anything"


@settings(max_examples=15)
@given(shape=shapes(), rows=prompts(min_rows=2, max_rows=5), data=st.data())
def test_neighbours_and_padding_do_not_matter(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 6, for both doors."""
    stack, requests, options = draw_run(data, shape, rows)
    neighbours_do_not_matter(stack, requests, **options)


@settings(max_examples=15)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_heads_never_touch_what_full_depth_says(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """A threshold of 1 is the model without heads, and the reference is the same at any."""
    model = shape.model()
    stack = STACKS[shape.kind](model)
    heads, policy = draw_heads(data, shape, model)
    plain = generate(stack, ask(rows))
    stay = ExitPolicy(policy.exit_layers, policy.confidence, 1.0)
    for answer, full in zip(
        generate(stack, ask(rows), policy=stay, heads=heads), plain, strict=True
    ):
        assert answer.trace.tokens == full.trace.tokens
    answers = generate(stack, ask(rows), policy=policy, reference=True, heads=heads)
    for answer, full in zip(answers, plain, strict=True):
        assert answer.reference == full.trace.tokens


@settings(max_examples=15)
@given(shape=shapes(), rows=prompts(), data=st.data())
def test_a_lower_threshold_never_leaves_a_first_step_later(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Law 7 where confidences are given: heads remember nothing yet at an answer's first token."""
    model = shape.model()
    stack = STACKS[shape.kind](model)
    heads, drawn = draw_heads(data, shape, model)
    depths = []
    for threshold in THRESHOLDS:
        policy = ExitPolicy(drawn.exit_layers, drawn.confidence, threshold)
        scored = score(stack, [ScoreRequest(row, (4,)) for row in rows], policy=policy, heads=heads)
        depths.append([answer.trace.layers_used[0] for answer in scored])
    for lower, higher in pairwise(depths):
        assert all(a <= b for a, b in zip(lower, higher, strict=True))


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("measure", ["head", "top_prob", "saturation", "oracle"])
def test_translators_speak_and_are_not_remembered(kind: str, measure: str) -> None:
    """Exits emit from the translated state, whatever the measure; the state stays as it was."""
    model = random_model(kind, 4, seed=5)
    stack = STACKS[kind](model)
    heads = heads_of(model, (2,), 3, translator="affine")
    rows = [(1, 5, 9, 2), (7, 7)]
    policy = ExitPolicy((2,), measure, 0.0)
    answers = generate(stack, ask(rows, 5), policy=policy, heads=heads)
    for row, answer in zip(rows, answers, strict=True):
        requests = [ScoreRequest(row, answer.trace.tokens)]
        silent = score(stack, requests, policy=ExitPolicy((2,), "top_prob", 0.0))[0]
        spoken = score(stack, requests, policy=policy, heads=heads)[0]
        assert spoken.trace.emitted == answer.trace.tokens
        frozen = below_the_norm(shallow(model, 2), [*row, *answer.trace.tokens[:-1]])
        frozen = frozen[len(row) - 1 :]
        translated = stack.unembed(heads.translate(2, frozen))
        assert list(answer.trace.tokens) == translated.argmax(-1).tolist()
        assert silent.trace.emitted == tuple(stack.unembed(frozen).argmax(-1).tolist())
        assert silent.trace.emitted != spoken.trace.emitted


def below_the_norm(model: Any, ids: list[int]) -> torch.Tensor:
    """(T, D) what transformers' own forward hands to the final norm."""
    seen: list[torch.Tensor] = []
    norm = model.backbone.norm_f if hasattr(model, "backbone") else model.model.norm
    hook = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    model(torch.tensor([ids]), use_cache=False)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_mamba_classifier_sees_the_tokens_asked_and_no_others(kind: str) -> None:
    """The rule of its state: every question at every exit, asked again outside the engine."""
    model = random_model(kind, 6, seed=3)
    stack = STACKS[kind](model)
    heads = heads_of(model, (1, 3, 5), 1, classifier="mamba")
    asked: dict[int, list[tuple[int, torch.Tensor, float]]] = {1: [], 3: [], 5: []}
    own = heads.confidence

    def listen(layer: int, hidden: torch.Tensor, *, rows: Any, tokens: Any, state: Any) -> Any:
        sure = own(layer, hidden, rows=rows, tokens=tokens, state=state)
        asked[layer] += zip(rows.tolist(), hidden, sure.tolist(), strict=True)
        return sure

    heads.confidence = listen  # type: ignore[method-assign]
    rows = [(1, 5, 9, 2, 2, 7), (2, 4), (8, 8, 3, 1)]
    policy = ExitPolicy((1, 3, 5), "head", 0.5)
    answers = generate(stack, ask(rows, 8), policy=policy, heads=heads)
    for row, answer in enumerate(answers):
        for layer, questions in asked.items():
            mine = [(hidden, sure) for who, hidden, sure in questions if who == row]
            reached = [used for used in answer.trace.layers_used if used >= layer]
            assert len(mine) == len(reached)
            if mine:
                hidden = torch.stack([one for one, _ in mine])[None]
                logits = heads.training_logits({layer: hidden})[layer][0]
                assert torch.sigmoid(logits).tolist() == pytest.approx(
                    [sure for _, sure in mine], abs=1e-5
                )
    assert len({used for answer in answers for used in answer.trace.layers_used}) > 2
