"""Records survive what lm-eval does to responses."""

from __future__ import annotations

import copy
import pickle

import pytest

from dynamax_lm.core.trace import AnswerTrace, ExitRecord, FlopsBreakdown
from dynamax_lm.harness.responses import TracedScore, TracedText, TracedTotal, record_of

TRACE = AnswerTrace(4, (7, 8), (7, 9), (2, 3), (0.5, None), (7, 8), None, 1)
RECORD = ExitRecord(
    "print", (TRACE,), FlopsBreakdown(layers=5, full_depth=10), "text", FlopsBreakdown(layers=2)
)


@pytest.mark.parametrize(
    "response",
    [TracedText("text", RECORD), TracedScore((-1.5, True), RECORD), TracedTotal(-9.0, RECORD)],
)
def test_a_response_is_its_value_and_keeps_its_record(response: object) -> None:
    for again in (pickle.loads(pickle.dumps(response)), copy.deepcopy(response)):
        assert again == response
        assert type(again) is type(response)
        assert record_of(again) == RECORD


def test_lm_eval_may_rebuild_a_response_from_a_gold_value() -> None:
    assert type(TracedText("a", RECORD))("gold") == "gold"
    assert record_of(TracedText("gold")) is None
    assert record_of("plain") is None
