"""Agreement at full depth is 1, however a second pass rounds; how often it differs is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.full_depth import by_definition, stepped
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.summary import Answer, Request, summarise
from dynamax_lm.core.trace import AnswerTrace, ExitRecord, FlopsBreakdown
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoredAnswer, ScoreRequest, score
from dynamax_lm.reuse.reuse_runner import ReuseRunner
from dynamax_lm.reuse.threshold_batching import TOKENS_AT_ONCE
from tests.builders import SKIPPED, STACKS, VOCAB, never, prompts, random_model

pytestmark = pytest.mark.usefixtures("no_gradients")

LAYERS = 5
ROWS = [(1, 5, 9, 2, 2, 7), (2,), (8, 8, 3, 1), (11, 4)]
THRESHOLDS = [0.2, 0.4, 0.6, 0.9, 1.0]


class Rounding:
    """A stack whose logits are off by what depends on how many rows its last product has.

    So does a product in low precision, whose sums are cut into blocks by the number of rows; here
    it is large enough that two passes of different widths often emit different tokens.
    """

    def __init__(self, stack: Any, scale: float = 4.0) -> None:
        self._stack, self._scale = stack, scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._stack.unembed(hidden)
        drawn = torch.Generator().manual_seed(hidden.shape[0])
        return logits + self._scale * torch.randn(logits.shape[1], generator=drawn)


def rounding(kind: str, seed: int = 3) -> Any:
    return Rounding(STACKS[kind](random_model(kind, LAYERS, seed=seed)))


def leaving(threshold: float, confidence: str = "top_prob") -> ExitPolicy:
    return ExitPolicy((1, 2, 4), confidence, threshold)


def ask(rows: Sequence[tuple[int, ...]], new: int = 8) -> list[GenerateRequest]:
    return [GenerateRequest(row, new, never, key=str(row)) for row in rows]


def check_definition(trace: AnswerTrace, skipped: str) -> None:
    """Full depth's own tokens are the emitted ones, and only they are held against the pass."""
    own = by_definition(trace.layers_used, LAYERS, skipped)
    assert trace.full_depth is not None
    assert trace.reference_pass is not None
    for row, known in zip(trace.rows(), own, strict=True):
        assert (row.reference_pass is not None) == known
        assert not known or row.full_depth == row.emitted


def check_answer(answer: GeneratedAnswer) -> None:
    """The reference is the answer up to the first token that full depth would not have emitted."""
    trace, full = answer.trace, answer.reference
    assert trace.full_depth is not None
    assert full is not None
    pairs = list(zip(trace.tokens, trace.full_depth, strict=True))
    agreeing = next((n for n, (ours, other) in enumerate(pairs) if ours != other), len(pairs))
    assert full[:agreeing] == trace.tokens[:agreeing]
    if agreeing < len(trace):
        assert full[agreeing] == trace.full_depth[agreeing]
    else:
        assert full == trace.tokens


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_where_nobody_leaves_the_answer_is_full_depths(kind: str, skipped: str) -> None:
    """For threshold 1 and without exits, with a pass that really disagrees."""
    stack = rounding(kind)
    differing = 0
    for policy in (leaving(1.0), FULL_DEPTH):
        answers = generate(stack, ask(ROWS), policy=policy, skipped_state=skipped, reference=True)
        for answer in answers:
            assert answer.reference == answer.trace.tokens == answer.trace.full_depth
            differing += answer.trace.noise.differing
    assert differing > 0, "the pass must really disagree for this to prove anything"


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_up_to_the_first_exit_a_generated_token_is_full_depths(kind: str, skipped: str) -> None:
    stack = rounding(kind)
    differing, depths = 0, set()
    for threshold in THRESHOLDS:
        options: dict[str, Any] = {"policy": leaving(threshold), "skipped_state": skipped}
        for answer in generate(stack, ask(ROWS), reference=True, **options):
            check_definition(answer.trace, skipped)
            check_answer(answer)
            differing += answer.trace.noise.differing
            depths.update(answer.trace.layers_used)
    assert differing > 0
    assert len(depths) > 1


def scored_rows(stack: Any, policy: ExitPolicy, skipped: str) -> list[ScoredAnswer]:
    """Options of two questions and a continuation: three that share a pass, others alone."""
    asked = [
        *(ScoreRequest((1, 5, 9), (4, last)) for last in (3, 5, 7)),
        *(ScoreRequest((2,), (option, 9, 9)) for option in (1, 8)),
        ScoreRequest((8, 8, 3), (11, 4, 30, 2, 2)),
    ]
    return score(stack, asked, policy=policy, skipped_state=skipped, reference=True)


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_up_to_the_first_exit_a_scored_token_is_full_depths(kind: str, skipped: str) -> None:
    """Its log-probability too, so that a row in which nobody leaves has one score."""
    differing, depths = 0, set()
    for seed in range(4):
        stack = rounding(kind, seed)
        for threshold in THRESHOLDS:
            for one in scored_rows(stack, leaving(threshold), skipped):
                check_definition(one.trace, skipped)
                own = by_definition(one.trace.layers_used, LAYERS, skipped)
                assert one.reference is not None
                for ours, full, known in zip(
                    one.log_probabilities, one.reference, own, strict=True
                ):
                    assert not known or full == ours
                if set(one.trace.layers_used) == {LAYERS}:
                    assert one.full_depth_score == one.score
                differing += one.trace.noise.differing
                depths.update(one.trace.layers_used)
    assert differing > 0
    assert len(depths) > 1


def request_of(one: ScoredAnswer) -> Request:
    record = ExitRecord("f", (one.trace,), FlopsBreakdown(), one.full_depth_score)
    return Request("loglikelihood", (Answer(one.score, record),))


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_documents_in_which_nobody_leaves_are_consistent(kind: str, skipped: str) -> None:
    """Multiple choice, and a single log-likelihood; also beside rows that leave."""
    seen = 0
    for seed in range(4):
        for threshold in THRESHOLDS:
            rows = scored_rows(rounding(kind, seed), leaving(threshold), skipped)
            for document in (rows[:3], rows[3:5], rows[5:]):
                if all(set(one.trace.layers_used) == {LAYERS} for one in document):
                    summary = summarise([request_of(one) for one in document])
                    assert (summary.agreement, summary.consistency) == (1.0, 1.0)
                    seen += threshold < 1
    assert seen > 0


@settings(max_examples=10)
@given(
    st.sampled_from(SKIPPED),
    prompts(),
    st.sampled_from(["top_prob", "oracle", "saturation"]),
    st.sampled_from([0, TOKENS_AT_ONCE]),
    st.booleans(),
    st.integers(0, 99),
)
def test_a_sweep_says_so_too(
    state: tuple[str, str], rows: list[Any], confidence: str, at_once: int, derives: bool, seed: int
) -> None:
    """Thresholds share passes, answers and batches; none is held against another's rounding."""
    kind, skipped = state
    stack = rounding(kind, seed)
    runner = ReuseRunner(1 << 30, at_once, derives=derives)
    runner.expect(THRESHOLDS)
    scored = [ScoreRequest(row, (seed % VOCAB, 4, option)) for row in rows for option in (1, 2)]
    for threshold in THRESHOLDS:
        options: dict[str, Any] = {
            "policy": leaving(threshold, confidence),
            "skipped_state": skipped,
            "reference": True,
        }
        for answer in runner.generate(stack, ask(rows), **options):
            check_answer(answer)
            if set(answer.trace.layers_used) == {LAYERS}:
                assert answer.reference == answer.trace.tokens == answer.trace.full_depth
        for one in runner.score(stack, scored, **options):
            if set(one.trace.layers_used) == {LAYERS}:
                assert one.full_depth_score == one.score


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_derived_answer_at_threshold_one_is_the_decoded_one(kind: str) -> None:
    stack = rounding(kind)
    plain = generate(stack, ask(ROWS))
    options: dict[str, Any] = {"policy": leaving(1.0), "skipped_state": "recompute"}
    derived = ReuseRunner().generate(stack, ask(ROWS), reference=True, **options)
    assert [one.trace.tokens for one in derived] == [one.trace.tokens for one in plain]
    assert sum(one.trace.noise.differing for one in derived) > 0


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_the_oracles_exact_state_needs_no_pass(kind: str, skipped: str) -> None:
    """What it compares with is computed as full depth computes it, step by step."""
    stack = rounding(kind)
    options: dict[str, Any] = {"policy": leaving(0.5, "oracle"), "skipped_state": skipped}
    for answer in generate(stack, ask(ROWS), reference=True, **options):
        check_answer(answer)
        for row in answer.trace.rows():
            assert row.reference_pass is not None
            assert row.layers_used == LAYERS or row.full_depth == row.emitted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_every_number_type_agrees_with_itself(kind: str, dtype: torch.dtype) -> None:
    """With the processor's own rounding, whatever it is."""
    stack = STACKS[kind](random_model(kind, LAYERS, seed=4, dtype=dtype))
    policy = leaving(1.0)
    answers = generate(stack, ask(ROWS, 24), policy=policy, reference=True)
    asked = [ScoreRequest(row, a.trace.tokens) for row, a in zip(ROWS, answers, strict=True)]
    for answer, again in zip(
        answers, score(stack, asked, policy=policy, reference=True), strict=True
    ):
        assert answer.reference == answer.trace.tokens == answer.trace.full_depth
        assert answer.trace.noise.compared == len(answer.trace)
        assert again.full_depth_score == again.score


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_lossless_token_is_full_depths_where_it_ran_alone(kind: str) -> None:
    """Elsewhere the pass is asked, and how often it rounds otherwise is counted on these tokens."""
    noisy, checked = 0, 0
    for threshold in (0.05, 0.3, 1.1):
        policy = ExitPolicy((2,), "top_prob", threshold)
        answers = generate(
            *(rounding(kind), ask(ROWS)), policy=policy, draft_length=3, reference=True
        )
        for trace in (one.trace for one in answers):
            own = stepped(trace.rounds or (), len(trace))
            again, full_depth = trace.reference_pass or [None] * len(trace), trace.full_depth
            assert full_depth is not None
            for known, token, other, seen in zip(own, trace.tokens, full_depth, again, strict=True):
                assert not known or token == other
                assert known or seen is None
                noisy += known and seen not in (None, token)
                checked += not known and token != other
            assert threshold <= 1 or all(own)
    assert noisy
    assert checked
