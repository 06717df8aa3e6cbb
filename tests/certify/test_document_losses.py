"""Losses: their definitions, the test that fits each, and values that have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.certify.losses import choose_loss, losses_of, refuse_empty
from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.trace import ExitRecord, FlopsBreakdown
from dynamax_lm.harness.responses import TracedText

DIRECTIONS = {"f1": True, "error": False, "odd": None}
share = st.floats(0, 1)


@given(share, share)
def test_losses_are_their_definitions(run: float, full: float) -> None:
    sample = {
        "agreement": run,
        "consistency": run,
        "f1": run,
        "full_depth_f1": full,
        "error": run,
        "full_depth_error": full,
    }

    def loss(metric: str) -> float:
        return choose_loss(metric, DIRECTIONS, repeats=1, grouped=False).of(sample)

    assert loss("agreement") == loss("consistency") == 1 - run
    assert loss("f1") == full - run
    assert loss("error") == run - full


def test_each_metric_has_the_test_that_fits_what_it_can_be() -> None:
    def method(metric: str, repeats: int = 1, grouped: bool = False) -> str:
        return choose_loss(metric, DIRECTIONS, repeats=repeats, grouped=grouped).kind.method

    assert method("consistency") == "binomial"
    assert method("consistency", repeats=2) == "betting"
    assert method("consistency", grouped=True) == "betting", "a mean of several is no coin"
    assert method("agreement") == "betting"
    for metric in DIRECTIONS:
        assert method(metric) == "betting_on_differences"


def test_losses_are_defined_in_words() -> None:
    def told(metric: str) -> str:
        return choose_loss(metric, DIRECTIONS, repeats=1, grouped=False).kind.definition

    assert told("f1") == "full_depth_f1 - f1 of a document"
    assert told("error") == "error - full_depth_error of a document"
    assert told("agreement").startswith("1 - agreement: ")
    assert told("consistency").startswith("1 - consistency: ")


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean agreement") as caught:
        choose_loss("agrement", DIRECTIONS, repeats=1, grouped=False)
    assert "consistency" in str(caught.value)
    assert "f1" in str(caught.value)


@pytest.mark.parametrize("value", [None, float("nan"), -0.1, 1.5, 37.0, (1, 2), "1", [0.5]])
def test_a_value_without_a_risk_is_refused_with_its_document(value: Any) -> None:
    loss = choose_loss("f1", DIRECTIONS, repeats=1, grouped=False)
    with pytest.raises(SettingError, match="document 7") as caught:
        loss.of({"doc_id": 7, "f1": value, "full_depth_f1": 0.5})
    assert "\n" not in str(caught.value)


@given(share)
def test_an_answer_without_text_is_right_only_where_full_depth_stops_so_too(stop: float) -> None:
    loss = choose_loss("agreement", DIRECTIONS, repeats=1, grouped=False)
    sample = {"doc_id": 1, "agreement_with_stop": stop}
    assert loss.of(sample) == (0 if stop == 1 else 1)
    assert loss.of(sample | {"agreement": 0.25}) == 0.75


def answered(*references: str) -> list[dict[str, Any]]:
    return [
        {"resps": [[TracedText("run's own", ExitRecord("f", (), FlopsBreakdown(), reference))]]}
        for reference in references
    ]


def test_a_task_that_full_depth_does_not_answer_is_refused() -> None:
    refuse_empty("t", answered("a", "", " b", "\n"))
    with pytest.raises(SettingError, match="tasks=t: 2 of 3 full-depth answers are empty") as told:
        refuse_empty("t", answered("a", "", "\n"))
    assert "\n" not in str(told.value)


def test_losses_stand_in_the_order_asked_for_and_are_all_there() -> None:
    samples = [{"doc_id": n, "agreement": n / 10} for n in range(4)]
    loss = choose_loss("agreement", {}, repeats=1, grouped=False)
    assert losses_of(loss, samples, [2, 0, 3, 1]) == pytest.approx(np.array([0.8, 1, 0.7, 0.9]))
    with pytest.raises(SettingError, match="4 documents were answered, 3 were asked"):
        losses_of(loss, samples, [2, 0, 3])
