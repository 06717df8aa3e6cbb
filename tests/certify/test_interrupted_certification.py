"""A certification that is stopped: nothing half-written, and nothing tested twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.certify import losses
from dynamax_lm.harness.command_line import Command
from tests.certify.command import Run

pytestmark = pytest.mark.usefixtures("toys_alone")


def test_a_failure_midway_leaves_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses.Loss, "of", _interrupt)
    with pytest.raises(KeyboardInterrupt, match="no certificate was written"):
        run(thresholds="1")
    assert not [path for path in tmp_path.rglob("*") if "certificate" in path.name]


def test_an_interrupted_certification_goes_on_after_what_it_tested(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"tasks": "toy_mc", "thresholds": "1,0.9,0.2"}
    whole = run(output_path=tmp_path / "whole", **asked)
    assert len(whole.grid) == 3
    evaluate, tested = Command.evaluate, []

    def stopping(self: Command, *given: Any, **options: Any) -> dict[str, Any]:
        if len(tested) == 2:
            raise KeyboardInterrupt
        tested.append(given)
        return evaluate(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Command, "evaluate", stopping)
        with pytest.raises(KeyboardInterrupt, match="goes on"):
            run(**asked)
        tested.clear()
        capsys.readouterr()
        patch.setattr(Command, "evaluate", lambda *a, **o: (tested.append(a), evaluate(*a, **o))[1])
        resumed = run(**asked)
    assert len(tested) == len(whole.grid) - 1
    assert "1 of the thresholds was tested before" in capsys.readouterr().out
    assert replace(resumed, date=whole.date) == whole
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["certificate.json"]


def _interrupt(self: Any, sample: Any) -> float:
    raise KeyboardInterrupt
