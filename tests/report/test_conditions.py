"""Reasons for refusing a comparison."""

from __future__ import annotations

from dynamax_lm.report.conditions import Conditions

SAME = Conditions("1", "0", "20", "hash", "", "", "", "float32", "")


def test_equal_conditions_do_not_differ() -> None:
    assert SAME.differ(SAME) is None


def test_every_condition_is_a_reason() -> None:
    for name in Conditions._fields:
        reason = SAME.differ(SAME._replace(**{name: "another"}))
        assert reason is not None
        assert reason.startswith("other ")


def test_unknown_hashes_leave_the_documents_to_say() -> None:
    assert SAME.differ(SAME._replace(samples="")) is None


def test_results_that_do_not_say_their_number_format_are_compared() -> None:
    assert SAME.differ(SAME._replace(number_format="")) is None
