"""The experiment goes on where it was killed, and its table says what the points say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import __main__ as paper
from benchmarks.paper.plan import Point, points, read_backbone
from benchmarks.paper.report import markdown, rows
from dynamax_lm.common.errors import SettingError
from scripts.study_pictures import rows_of_page

MISTRAL, MAMBA = read_backbone("dynamax-mistral=tiny"), read_backbone("dynamax-mamba=org/name")


def result(point: Point) -> dict[str, Any]:
    saved = 0.4 - 0.3 * point.threshold
    return {
        "backbone": point.backbone.name,
        "classifier": point.classifier,
        "state": point.skipped_state,
        "threshold": point.threshold,
        "results": {
            "task": {
                "alias": "task",
                "layers_used,none": 9.25,
                "layers_used_stderr,none": 0.5,
                "flops_saved,none": saved,
                "agreement,none": 0.5 + point.threshold / 2,
                "consistency,none": 0.75,
                "f1,none": 0.31,
                "full_depth_f1,none": 0.32,
                "full_depth_f1_stderr,none": 0.01,
            }
        },
    }


def test_a_state_is_run_where_a_model_has_it() -> None:
    plan = list(points([MISTRAL, MAMBA], ["linear"], ["propagate", "freeze"], [0.5, 0.9]))
    states = {(point.backbone.model, point.skipped_state) for point in plan}
    assert states == {
        ("dynamax-mistral", "propagate"),
        ("dynamax-mamba", "propagate"),
        ("dynamax-mamba", "freeze"),
    }
    assert len({point.file(Path("x")) for point in plan}) == len(plan) == 6


@pytest.mark.parametrize("text", ["tiny", "dynamax-mistral=", "llama=tiny"])
def test_a_backbone_is_a_model_and_a_checkpoint(text: str) -> None:
    with pytest.raises(SettingError, match="MODEL=CHECKPOINT"):
        read_backbone(text)


def test_what_no_model_can_do_is_refused_before_anything_runs() -> None:
    with pytest.raises(SettingError, match="no chosen model has it"):
        points([MISTRAL], ["linear"], ["freeze"], [0.5])
    with pytest.raises(SettingError, match=r"1\.5"):
        points([MISTRAL], ["linear"], ["propagate"], [1.5])


def test_a_killed_run_goes_on_and_makes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    evaluated: list[Point] = []
    budget = [4]

    def train(backbone: Any, point: Point, folder: Path, options: Any) -> None:
        trained.append(f"{backbone.model} {point.classifier}")

    def evaluate(backbone: Any, left: list[Point], folder: Path, options: Any) -> None:
        for point in left:
            if not budget[0]:
                raise KeyboardInterrupt
            budget[0] -= 1
            evaluated.append(point)
            file = point.file(folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result(point)))

    monkeypatch.setattr(paper, "_train", train)
    monkeypatch.setattr(paper, "_evaluate", evaluate)
    argv = ["--backbones", "dynamax-mistral=tiny", "dynamax-mamba=tiny", "--thresholds", "0.5", "1"]
    argv += ["--classifiers", "linear", "mamba", "--output_path", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        paper.main(argv)
    assert trained == [
        "dynamax-mistral linear",
        "dynamax-mistral mamba",
        "dynamax-mamba linear",
        "dynamax-mamba mamba",
    ]
    assert not (tmp_path / "table.md").exists()
    budget[0] = 100
    paper.main(argv)
    assert len(evaluated) == len(set(evaluated)) == 8
    assert trained[4:] == ["dynamax-mamba linear", "dynamax-mamba mamba"]
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 8
    assert (tmp_path / "paper.png").stat().st_size > 1000
    assert "dynamax-mamba" in capsys.readouterr().out
    paper.main(argv)
    assert len(evaluated) == 8
    for other in (["--limit", "5"], ["--seed", "1"], ["--width", "narrow"]):
        with pytest.raises(SettingError, match=f"{other[0]}={other[1]}"):
            paper.main(argv + other)
    paper.main([*argv, "--batch_size", "2"])
    assert len(evaluated) == 8


def test_the_table_says_what_the_points_say() -> None:
    found = list(rows(result(Point(MISTRAL, "mamba", "propagate", 0.5))))
    table = markdown(found)
    assert "f1 at full depth: 0.320" in table
    assert "| mamba | `propagate` | 0.5 | 9.25 ± 0.50 | 25.0 % | 75.0 % | 75.0 % | 0.310 |" in table


def test_the_picture_can_be_drawn_from_the_table() -> None:
    """The rows of a page are those that its tables were made of, as far as they are printed."""
    made = [
        row
        for backbone in (MISTRAL, MAMBA)
        for kind in ("linear", "mamba")
        for threshold in (0.5, 0.95)
        for row in rows(result(Point(backbone, kind, "propagate", threshold)))
    ]
    read = list(rows_of_page(f"Text, `code`.\n\n{markdown(made)}\nMore text.\n"))
    assert len(read) == len(made)
    for ours, theirs in zip(read, made, strict=True):
        for name, value in ours.items():
            if isinstance(value, float):
                assert value == pytest.approx(theirs[name], abs=5e-4), name
            else:
                assert value == theirs[name], name
