"""Wrong input of a sweep is one line, before the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamax_lm.common.errors import SettingError
from tests.sweep.sweeps import sweep

pytestmark = pytest.mark.usefixtures("toys_alone")


def test_a_file_for_an_output_path_is_refused_before_the_work(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setattr("dynamax_lm.harness.command_line.Command.load", None)
    with pytest.raises(SettingError, match="taken is a file"):
        sweep(checkpoints["mistral"], tmp_path / "taken", "--thresholds", "0.05")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--thresholds", "2"), "threshold=2"),
        (("--thresholds", "0.5", "--vary", "look=rank:999"), "has rank 16 at most"),
        (("--thresholds", "0.5", "--vary", "confidence=mood"), "confidence=mood"),
        (("--thresholds", "0.5", "--vary", "confidance=margin"), "did you mean confidence"),
        (("--vary", "exit_layers=1,9"), "exit_layers=.*9"),
        (("--thresholds", "0.5", "--memory_gib", "-1"), "--memory_gib -1"),
        (("--thresholds", "0.5", "--tokens_at_once", "-1"), "--tokens_at_once -1"),
        (("--thresholds", "0.5", "--tasks", "no_such_task"), "no_such_task"),
        (("--thresholds", "0.5", "--limit", "0"), "--limit 0"),
        (("--thresholds", "0.5", "--limit", "inf"), "--limit inf"),
        (("--thresholds", "0.5", "--limit", "nan"), "--limit nan"),
        (("--thresholds", "0.5", "--seed", "-1"), "--seed -1"),
        (("--thresholds", "0.5", "--device", "banana"), "device=banana"),
        (("--thresholds", "0:1:1e-999999"), "more than 10000 points"),
        (("--thresholds", "0:1:1e-5"), "more than 10000 points"),
        (("--thresholds", "0.5", "--model", "hf"), "--model hf: choose one of dynamax-mistral"),
        ((), "nothing to sweep"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_written(
    more: tuple[str, ...], told: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        sweep(checkpoints["mistral"], tmp_path, *more)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
