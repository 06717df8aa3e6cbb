"""Slow metrics show what is scored; quick ones show nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dynamax_lm.harness import reference

Evaluate = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("slow", [False, True])
def test_metrics_are_shown_where_they_take_long(
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    slow: bool,
) -> None:
    """The run's own answers, and full depth's; the results are the same."""
    before = evaluate("toy_gen")["results"]
    if slow:
        monkeypatch.setattr(reference, "_UNSEEN", 0.0)
    capsys.readouterr()
    assert evaluate("toy_gen")["results"] == before
    shown = capsys.readouterr().err
    assert ("Metrics of toy_gen: 100%" in shown) == slow
    assert ("Metrics of toy_gen at full depth: 100%" in shown) == slow
