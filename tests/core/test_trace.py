"""Traces are one entry per token, texts are cut before their stop, and bills add up."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.core.trace import AnswerTrace, ExitRecord, FlopsBreakdown, Noise

TRACE = AnswerTrace(4, (7, 8), (7, 9), (2, 3), (0.5, None), (7, 8), None, 1)


def test_a_trace_read_token_by_token() -> None:
    rows = TRACE.rows()
    assert [row.position for row in rows] == [0, 1]
    assert rows[1] == (1, 8, 9, 3, None, 8, None)
    assert TRACE.agreeing == 1
    assert AnswerTrace(0, (1,), (1,), (2,), (None,)).agreeing is None


def test_noise_counts_tokens_that_need_no_reference() -> None:
    assert TRACE.noise == Noise(0, 0)
    assert TRACE.noise.rate is None
    measured = replace(TRACE, reference_pass=(6, None))
    assert measured.noise == Noise(1, 1)
    assert measured.noise.pooled(Noise(3, 0)).rate == 1 / 4
    assert [row.reference_pass for row in measured.rows()] == [6, None]
    with pytest.raises(ValueError, match="one entry per token"):
        replace(TRACE, reference_pass=(6,))


def test_a_ragged_trace_is_refused() -> None:
    with pytest.raises(ValueError, match="one entry per token"):
        AnswerTrace(0, (1, 2), (1, 2), (3,), (None, None))


bills = st.builds(
    FlopsBreakdown, **{field.name: st.integers(0, 10**15) for field in fields(FlopsBreakdown)}
)


@given(bills, bills)
def test_bills_add_item_by_item(a: FlopsBreakdown, b: FlopsBreakdown) -> None:
    both = a + b
    assert both.spent == a.spent + b.spent
    assert both.full_depth == a.full_depth + b.full_depth
    assert a + FlopsBreakdown() == a


def test_savings_are_net_and_may_be_negative() -> None:
    bill = FlopsBreakdown(
        prompt=100, layers=50, checks=70, projection=10, propagation=20, full_depth=100
    )
    assert bill.flops_saved == pytest.approx(-0.5)
    assert bill.flops_saved_total == pytest.approx(1 - 250 / 200)
    assert FlopsBreakdown().flops_saved == 0.0


def test_an_answers_text_is_the_answer_cut_before_its_stop() -> None:
    assert TRACE.text == AnswerTrace(4, (7,), (7,), (2,), (0.5,), (7,), None, 1)
    assert TRACE.text.agreeing == 1
    scored = AnswerTrace(0, (1, 2), (1, 2), (2, 3), (None, None))
    assert scored.text is scored
    assert ExitRecord("print", (scored,), FlopsBreakdown(layers=5)).billed_text == FlopsBreakdown(
        layers=5
    )
    with pytest.raises(ValueError, match="3 text tokens of 2"):
        AnswerTrace(0, (1, 2), (1, 2), (2, 3), (None, None), None, None, 3)
