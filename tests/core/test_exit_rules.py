"""Rules with more than one threshold: closed forms, and the laws of the plain threshold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.thresholds import (
    CalmDecay,
    FixedDepth,
    PerExit,
    ThresholdRule,
    cutoff_of,
    make_rule,
    register_rule,
    rule_class,
)
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.reuse.reuse_runner import ReuseRunner
from tests.builders import SKIPPED, STACKS, never, random_model

pytestmark = pytest.mark.usefixtures("no_gradients")

EXITS = (1, 3, 4)
ROWS = [(1, 5, 9, 2, 2, 7), (2,), (8, 8, 3, 1), (11, 4)]
RULES: list[ThresholdRule] = [
    PerExit(0.0, (0.6, 0.3, 0.1)),
    PerExit(0.0, (1.0, 0.2, 0.0)),
    CalmDecay(0.15, temperature=6.0, length=12.0),
]
MARGIN = 1e-4
shares = st.floats(0, 1)


def ask(new: int = 10) -> list[GenerateRequest]:
    return [GenerateRequest(row, new, never, key=f"{row}") for row in ROWS]


def check_depths(trace: Any, rule: ThresholdRule, layers: int) -> int:
    """Every token left where its confidence met the threshold of that exit and step."""
    checked = 0
    for step, row in enumerate(trace.rows()):
        exit = EXITS.index(row.layers_used) if row.layers_used != layers else len(EXITS) - 1
        bar = cutoff_of(rule.at(exit, step), "top_prob", len(EXITS))
        assert row.confidence is not None
        if abs(row.confidence - bar) > MARGIN:
            assert (row.confidence >= bar) == (row.layers_used != layers)
            checked += 1
    return checked


@given(shares, st.floats(0, 50), st.floats(0.5, 500), st.integers(0, 600), st.integers(0, 600))
def test_calms_threshold_is_its_formula_and_falls(
    threshold: float, temperature: float, length: float, one: int, other: int
) -> None:
    rule = CalmDecay(threshold, temperature, length)
    early, late = sorted((one, other))
    bonus = math.exp(-temperature * early / length)
    raised = 0.9 * threshold + 0.1 * bonus
    assert rule.at(0, early) == rule.at(3, early) == pytest.approx(min(max(raised, 0), 1))
    assert rule.at(0, late) <= rule.at(0, early)
    assert rule.at(0, 0) == pytest.approx(0.9 * threshold + 0.1)


@given(shares, st.integers(1, 6))
def test_equal_thresholds_at_every_exit_are_one_threshold(threshold: float, exits: int) -> None:
    layers = tuple(range(1, exits + 1))
    listed = ExitPolicy(layers, rule=PerExit(0.0, (threshold,) * exits)).cutoffs_at([0, 7])
    assert listed is not None
    (plain,) = ExitPolicy(layers).cutoffs([threshold])
    assert (listed == plain).all()
    assert listed.shape == (2, exits)
    assert ExitPolicy(layers, threshold=threshold).cutoffs_at([0]) is None


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_generating_then_scoring_goes_the_same_way_under_every_rule(
    kind: str, skipped: str
) -> None:
    """And each token leaves by the threshold of its own exit and step."""
    stack = STACKS[kind](random_model(kind, 5, seed=3))
    for rule in RULES:
        policy = ExitPolicy(EXITS, "top_prob", 0.0, rule)
        given_answers = generate(stack, ask(), policy=policy, skipped_state=skipped)
        again = [ScoreRequest(r, a.trace.tokens) for r, a in zip(ROWS, given_answers, strict=True)]
        scored = score(stack, again, policy=policy, skipped_state=skipped)
        checked = 0
        for answer, other in zip(given_answers, scored, strict=True):
            checked += check_depths(answer.trace, rule, 5)
            for a, b in zip(answer.trace.rows(), other.trace.rows(), strict=True):
                assert (a.layers_used, a.emitted) == (b.layers_used, b.emitted)
        assert checked >= 0.9 * sum(len(answer.trace) for answer in given_answers)
        depths = {used for answer in given_answers for used in answer.trace.layers_used}
        assert len(depths) > 1, "tokens must really leave at several depths"


@pytest.mark.parametrize("skipped", ["recompute", "propagate"])
def test_a_sweeps_runner_answers_as_the_core_does_under_every_rule(skipped: str) -> None:
    """Also after plain thresholds that were run beside each other, and with none to come."""
    stack = STACKS["mistral"](random_model("mistral", 5, seed=3))
    runner = ReuseRunner(1 << 30)
    runner.expect([0.15, 0.3])
    first = ExitPolicy(EXITS, "top_prob", 0.3)
    options: dict[str, Any] = {"skipped_state": skipped, "reference": True, "heads": None}
    asked = [ScoreRequest(row, (7, 3, 9)) for row in ROWS]
    runner.generate(stack, ask(), policy=first, **options)
    runner.score(stack, asked, policy=first, **options)
    for rule in RULES:
        policy = ExitPolicy(EXITS, "top_prob", 0.15, rule)
        for ours, core in (
            (runner.generate, generate),
            (runner.score, score),
        ):
            requests: Any = asked if core is score else ask()
            pairs = zip(
                ours(stack, requests, policy=policy, **options),
                core(stack, requests, policy=policy, **options),
                strict=True,
            )
            for derived, run in pairs:
                assert derived.trace.layers_used == run.trace.layers_used
                assert derived.trace.emitted == run.trace.emitted


def test_a_fixed_depth_asks_nothing_and_is_billed_no_check() -> None:
    stack = STACKS["mistral"](random_model("mistral", 5, seed=3))
    policy = ExitPolicy((3,), "none", 0.0, FixedDepth(0.0))
    always = ExitPolicy((3,), "top_prob", 0.0)
    for ours, other in zip(
        generate(stack, ask(), policy=policy), generate(stack, ask(), policy=always), strict=True
    ):
        assert ours.trace.tokens == other.trace.tokens
        assert set(ours.trace.layers_used) == {3}
        assert set(ours.trace.confidence) == {None}
    costs = AttentionCosts(
        n_layers=5, width=8, feedforward=16, query_heads=2, kv_heads=1, head_dim=4, vocabulary=10
    )
    asked, unasked = (
        Ledger(costs, exit_layers=(3,), confidence=name).answer(4, [3, 3])
        for name in ("top_prob", "none")
    )
    assert unasked.checks == 0
    assert unasked.spent == asked.spent, "one exit: the check's projection becomes the emission's"


def test_what_no_rule_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="none of threshold"):
        make_rule("calm", 0.9, {})
    with pytest.raises(ValueError, match="heat is no argument of calm_decay"):
        make_rule("calm_decay", 0.9, {"heat": 1.0})
    with pytest.raises(ValueError, match="temperature"):
        make_rule("calm_decay", 0.9, {"temperature": -1.0})
    with pytest.raises(ValueError, match="one threshold"):
        make_rule("calm_decay", [0.9, 0.8], {})
    with pytest.raises(ValueError, match="already"):
        register_rule("calm_decay", FixedDepth)
    assert rule_class("calm_decay") is CalmDecay
    wild = ExitPolicy(EXITS, rule=PerExit(0.0, (0.5, 1.5, 0.1)))
    with pytest.raises(ValueError, match="exit 1, step 0"):
        wild.cutoffs_at([0])
