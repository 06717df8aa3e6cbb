"""A short run of the simulation: intervals cover the true share where tokens are alike."""

from __future__ import annotations

import pytest

from benchmarks.validity.shares import coverage, main


@pytest.mark.parametrize("likeness", [0.0, 0.3])
@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("documents", [10, 40])
def test_the_true_share_is_covered(documents: int, share: float, likeness: float) -> None:
    ours, tokens = coverage(documents, share, likeness, 300)
    assert ours >= 0.9
    if likeness:
        assert tokens < 0.85  # tokens of one document are not independent


def test_the_table_has_a_row_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--draws", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 5 * 4
