"""How a backbone was recognised, in results files."""

from __future__ import annotations

from typing import Any

import pytest

from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.checks.settings import _check_heads


def shown(name: str, **own: Any) -> list[str]:
    block = {"heads": {"name": name, "fingerprint": "ab", "exit_layers": [1]} | own}
    found = Verification()
    settings = {"heads": name, "heads_fingerprint": "ab", "exit_layers": [1]}
    _check_heads("run", block, settings, found)
    return [one for one in found.mismatches if "backbone" in one]


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"backbone": "equal", "backbone_difference": None},
        {"backbone": "equal", "backbone_difference": 0.0014},
        {"backbone": "rounded", "backbone_difference": 0.0067},
    ],
)
def test_what_a_run_writes_holds(own: dict[str, Any]) -> None:
    assert shown("some/folder", **own) == []


@pytest.mark.parametrize(
    "own",
    [
        {"backbone": "alike", "backbone_difference": None},
        {"backbone": "rounded", "backbone_difference": None},
        {"backbone": "rounded", "backbone_difference": -0.1},
        {"backbone": "equal", "backbone_difference": "0"},
    ],
)
def test_what_no_run_writes_is_shown(own: dict[str, Any]) -> None:
    assert len(shown("some/folder", **own)) == 1


def test_shipped_heads_without_a_sample_recognise_no_copy() -> None:
    rounded = {"backbone": "rounded", "backbone_difference": 0.01}
    assert len(shown("tiny-mistral", **rounded)) == 2
    assert shown("smollm2-135m-instruct", **rounded) == []
