"""Tested thresholds on disk are those of the same question, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynamax_lm.certify.progress import FILE, Progress
from dynamax_lm.certify.run import Measured, MeasuredTask

THRESHOLDS = (0.9, 0.5, 0.1)


def point(threshold: float) -> Measured:
    losses = np.array([0.0, 1 / 3, threshold])
    return Measured(threshold, (MeasuredTask("toy", float(losses.mean()), 0.01, 0.2, losses),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    progress = Progress(tmp_path, "key")
    for threshold in THRESHOLDS:
        progress.keep(point(threshold))
    return tmp_path


def test_all_but_the_last_are_kept_to_the_last_bit(folder: Path) -> None:
    progress = Progress(folder, "key")
    for threshold in THRESHOLDS[:-1]:
        found = progress.take(threshold)
        assert found is not None
        np.testing.assert_array_equal(found.outcomes[0].losses, point(threshold).outcomes[0].losses)
        assert found.outcomes[0][:-1] == point(threshold).outcomes[0][:-1]
    assert progress.take(THRESHOLDS[-1]) is None


def test_those_of_another_question_are_not_taken(folder: Path) -> None:
    assert len(Progress(folder, "another")) == 0


@pytest.mark.parametrize("left", [0, 1, 20, 200])
def test_a_damaged_file_starts_anew(folder: Path, left: int) -> None:
    file = folder / FILE
    file.write_bytes(file.read_bytes()[:left])
    progress = Progress(folder, "key")
    assert progress.take(THRESHOLDS[1]) is None
    progress.keep(point(THRESHOLDS[0]))
    progress.keep(point(THRESHOLDS[1]))
    assert len(Progress(folder, "key")) == 1
    progress.end()
    assert not list(folder.iterdir())
