"""Many evaluations, one look at the machine."""

from __future__ import annotations

from typing import Any

import lm_eval.evaluator
import pytest

from dynamax_lm.harness.machine import described_once


def test_the_machine_is_described_once_and_told_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def look(results: dict[str, Any]) -> None:
        nonlocal looks
        looks += 1
        results["pretty_env_info"] = f"look {looks}"

    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", look)
    told: list[dict[str, Any]] = [{"results": number} for number in range(3)]
    with described_once():
        for results in told:
            lm_eval.evaluator.add_env_info(results)
    assert told == [{"results": n, "pretty_env_info": "look 1"} for n in range(3)]
    assert lm_eval.evaluator.add_env_info is look


def test_lm_eval_is_left_as_it_was_when_a_run_fails() -> None:
    before = lm_eval.evaluator.add_env_info
    with pytest.raises(ZeroDivisionError), described_once():
        assert 1 / (lm_eval.evaluator.add_env_info is before)
    assert lm_eval.evaluator.add_env_info is before
