"""What a sweep's points say of the machine and the checkpoint, beside their numbers."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import pytest

from dynamax_lm.models.lm import DynamaxMistral
from dynamax_lm.sweep.__main__ import main
from tests.checkpoints import save_checkpoint
from tests.harness.recorders import Sinks
from tests.quick import only_toys

ROOT = Path(__file__).resolve().parents[2]
TOYS = str(ROOT / "tests" / "harness" / "toys")


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every look that lm-eval takes at the machine."""
    looks: list[str] = []

    def look(results: dict[str, Any]) -> None:
        looks.append(f"look {len(looks)}")
        results["pretty_env_info"] = looks[-1]

    only_toys(monkeypatch)
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", look)
    return looks


def test_finished_points_can_be_sent_on_as_the_documentation_says(
    described: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", "mistral")
    monkeypatch.chdir(tmp_path)
    main(
        [
            *("--model", "dynamax-mistral", "--model_args", f"pretrained={checkpoint}"),
            *("--tasks", "toy_mc", "--include_path", TOYS, "--limit", "2", "--device", "cpu"),
            *("--thresholds", "0.1,0.9", "--output_path", "results"),
        ]
    )
    sinks = Sinks(tmp_path)
    sinks.install(monkeypatch)
    sent = []

    def keep() -> None:
        sent.append((sinks.wandb.arguments["name"], dict(sinks.wandb.numbers)))
        sinks.wandb.run = None

    monkeypatch.setattr(sinks.wandb, "_finish", keep)
    page = (ROOT / "docs" / "sweep.md").read_text()
    start = page.index("    import json, pathlib")
    exec(textwrap.dedent(page[start : page.index("\n(`TrackioLogger`")]), {})
    assert [name for name, _ in sent] == ["threshold=0.1", "threshold=0.9"]
    for name, numbers in sent:
        (file,) = Path("results").glob(f"*/{name}/results_*.json")
        results = json.loads(file.read_text())["results"]["toy_mc"]
        for key in ("acc", "layers_used", "flops_saved_stderr"):
            assert numbers[f"toy_mc/{key}"] == results[f"{key},none"]
    assert not sinks.strict.problems


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
