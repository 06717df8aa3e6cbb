"""The nearest task to a name that lm-eval does not find."""

from __future__ import annotations

import pytest

from dynamax_lm.harness.plugin.unknown_tasks import is_unknown_tasks, unknown_tasks_line


def test_only_lm_evals_own_error_is_one() -> None:
    assert is_unknown_tasks(ValueError("Tasks not found: coqq"))
    assert not is_unknown_tasks(ValueError("tasks: none"))
    assert not is_unknown_tasks(KeyError("Tasks not found: coqq"))


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("dynamax_sampl", "dynamax_sampl (did you mean dynamax_sample?)"),
        ("dynamax_sampl, qzx", "dynamax_sampl (did you mean dynamax_sample?), qzx"),
        ("triviaqq", "triviaqq (did you mean triviaqa?)"),
        ("", "''"),
    ],
)
def test_each_name_brings_its_nearest(missing: str, line: str) -> None:
    error = ValueError(f"Tasks not found: {missing}")
    assert unknown_tasks_line(error) == f"Tasks not found: {line}; lm_eval ls tasks lists all"
