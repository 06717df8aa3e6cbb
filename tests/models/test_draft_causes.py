"""The line after a slow lossless run names the one cause that was put there."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.trace import DraftRound
from dynamax_lm.engine.draft_costs import DraftCosts, RoundCounts
from dynamax_lm.models.draft_causes import Cause, LosslessRun
from dynamax_lm.models.speed_check import SpeedCheck

LAYERS, EXIT, CHECK, LENGTH = 20, 4, 0.01, 4
SLOW = st.floats(0.8, 0.99)


def costs(exit_layer: int = EXIT, check: float = CHECK) -> DraftCosts:
    """All layers cost the same, and the final projection nothing."""
    return DraftCosts(exit_layer / LAYERS, check, 1 - exit_layer / LAYERS)


def drafts(accepted: list[int], drafted: int = LENGTH) -> list[DraftRound]:
    """Drafts that end at a length of ``drafted``."""
    tokens, depths = (7,) * drafted, (EXIT,) * drafted
    return [DraftRound(0, drafted + 1, tokens, depths, count) for count in accepted]


def run(
    rounds: list[DraftRound],
    speed: float,
    *,
    exit_layer: int = EXIT,
    check: float = CHECK,
    rows: float = 1.0,
) -> LosslessRun:
    counts = RoundCounts.of(rounds)
    return LosslessRun(counts, costs(exit_layer, check), exit_layer, LAYERS, rows, speed)


ALL_ACCEPTED = drafts([LENGTH] * 6)


@st.composite
def few_accepted(draw: st.DrawFn) -> LosslessRun:
    return run(drafts(draw(st.lists(st.integers(0, 1), min_size=1, max_size=9))), draw(SLOW))


@st.composite
def expensive_checks(draw: st.DrawFn) -> LosslessRun:
    return run(ALL_ACCEPTED, draw(SLOW), check=draw(st.floats(1.0, 4.0)))


@st.composite
def deep_exit(draw: st.DrawFn) -> LosslessRun:
    return run(ALL_ACCEPTED, draw(SLOW), exit_layer=draw(st.integers(16, LAYERS - 1)))


@st.composite
def short_drafts(draw: st.DrawFn) -> LosslessRun:
    """Below the threshold at the first check; or answers of one token, which allow no draft."""
    checked = draw(st.booleans())
    rounds = [DraftRound(0, 1, (), (), 0, checked)] * draw(st.integers(1, 9))
    return run(rounds, draw(SLOW))


@st.composite
def large_batch(draw: st.DrawFn) -> LosslessRun:
    return run(drafts([3] * 6), draw(SLOW), rows=draw(st.floats(1.5, 64)))


@st.composite
def slow_passes(draw: st.DrawFn) -> LosslessRun:
    """One row; or slower than if no pass shared the weights that it reads."""
    alone = draw(st.booleans())
    speed = draw(SLOW if alone else st.floats(0.1, 0.75))
    return run(drafts([3] * 6), speed, rows=1.0 if alone else 8.0)


RUNS: dict[Cause, Callable[[], st.SearchStrategy[LosslessRun]]] = {
    Cause.ACCEPTANCE: few_accepted,
    Cause.VOCABULARY: expensive_checks,
    Cause.DEPTH: deep_exit,
    Cause.LENGTH: short_drafts,
    Cause.BATCH: large_batch,
    Cause.PASSES: slow_passes,
}


@pytest.mark.parametrize("cause", Cause)
@settings(max_examples=25)
@given(st.data())
def test_the_cause_that_dominates_is_named_and_no_other(cause: Cause, data: st.DataObject) -> None:
    found = data.draw(RUNS[cause]())
    assert found.cause() is cause
    line = found.explain()
    assert [one for one in Cause if one.value in line] == [cause]
    assert "\n" not in line


@settings(max_examples=25)
@given(few_accepted(), expensive_checks(), deep_exit(), short_drafts())
def test_a_run_without_the_cause_has_the_bound_that_is_promised(
    few: LosslessRun, expensive: LosslessRun, deep: LosslessRun, short: LosslessRun
) -> None:
    others = {
        Cause.ACCEPTANCE: (few, run(drafts([LENGTH] * few.counts.rounds), 1)),
        Cause.VOCABULARY: (expensive, run(ALL_ACCEPTED, 1, check=0)),
        Cause.DEPTH: (deep, run(ALL_ACCEPTED, 1, exit_layer=LAYERS // 4)),
        Cause.LENGTH: (short, run(drafts([32], 32), 1)),
    }
    for cause, (slow, better) in others.items():
        assert slow.without()[cause] == pytest.approx(better.bound)
        assert better.bound > max(1.0, slow.bound)


@pytest.mark.parametrize(("lossless", "level"), [(2.0, "WARNING"), (0.5, "INFO")])
def test_one_line_is_logged_and_a_warning_if_the_run_was_slower(
    lossless: float, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    speed = SpeedCheck(
        documents=6, batches=6, lossless=lossless, full_depth=1.0, rounds=drafts([0, 1])
    )
    with caplog.at_level(logging.INFO, "lm_eval.dynamax_lm"):
        SpeedCheck().report(costs(), EXIT, LAYERS)  # nothing was timed
        speed.report(costs(), EXIT, LAYERS)
    (record,) = caplog.records
    assert record.levelname == level
    named = [cause for cause in Cause if cause.value in record.getMessage()]
    assert named == ([Cause.ACCEPTANCE] if lossless > 1 else [])
