"""What a sweep's points say of the machine and the checkpoint, beside their numbers."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import pytest
from lm_eval.tasks import TaskManager

from dynamax_lm.models.lm import DynamaxMistral
from dynamax_lm.sweep.__main__ import main
from tests.checkpoints import save_checkpoint

TOYS = str(Path(__file__).parents[1] / "harness" / "toys")


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every look that lm-eval takes at the machine."""
    looks: list[str] = []

    def look(results: dict[str, Any]) -> None:
        looks.append(f"look {len(looks)}")
        results["pretty_env_info"] = looks[-1]

    only_toys = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", only_toys)
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", look)
    return looks


def test_points_share_one_description_and_carry_the_default_checkpoints_name(
    described: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoint = str(save_checkpoint(tmp_path / "checkpoint", "mistral"))
    known = replace(DynamaxMistral.ARCHITECTURE, default=checkpoint)
    monkeypatch.setattr(DynamaxMistral, "ARCHITECTURE", known)
    main(
        [
            *("--model", "dynamax-mistral", "--model_args", "dtype=float32", "--device", "cpu"),
            *("--tasks", "toy_mc", "--include_path", TOYS, "--limit", "1"),
            *("--thresholds", "0.1,0.5,0.9", "--output_path", str(tmp_path / "out")),
        ]
    )
    points = [json.loads(file.read_text()) for file in tmp_path.glob("out/*/*/results_*.json")]
    assert len(points) == 3
    assert [point["pretty_env_info"] for point in points] == ["look 0"] * 3
    assert described == ["look 0"]
    assert [point["model_name"] for point in points] == [checkpoint] * 3
    assert [point["model_source"] for point in points] == ["dynamax-mistral"] * 3
