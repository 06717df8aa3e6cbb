"""The experiment trains what was not given, refuses mixtures, and its table says what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import __main__ as paper
from benchmarks.paper.plan import Rule, check_states, read_backbone, read_heads, rules
from benchmarks.paper.report import best, markdown, rows
from benchmarks.paper.seconds import FULL, read_setting, row, table
from dynamax_lm.common.errors import SettingError

MISTRAL, MAMBA = read_backbone("dynamax-mistral=tiny"), read_backbone("dynamax-mamba=org/name")


def results(rule: Rule) -> dict[str, Any]:
    saved = 0.4 - 0.3 * rule.threshold
    return {
        "groups": {"group": {}},
        "results": {
            "group": {"agreement,none": 0.0},
            "task": {
                "alias": "task",
                "layers_used,none": 9.25,
                "layers_used_stderr,none": 0.5,
                "flops_saved,none": saved,
                "flops_saved_total,none": saved / 10,
                "flops_saved_total_stderr,none": 0.001,
                "agreement,none": 0.5 + rule.threshold / 2,
                "consistency,none": 0.75,
                "f1,own": 0.31,
                "f1_stderr,own": 0.02,
                "full_depth_f1,own": 0.32,
                "full_depth_f1_stderr,own": 0.01,
            },
        },
    }


def found(backbone: Any, *some: Rule) -> list[dict[str, Any]]:
    told = {"backbone": f"{backbone.model}, {backbone.pretrained}"}
    return [row for rule in some for row in rows({**told, **rule._asdict()}, results(rule))]


def test_a_state_is_evaluated_where_a_model_has_it() -> None:
    states = ["propagate", "freeze"]
    check_states(states, [MISTRAL, MAMBA])
    plans = {one: rules(one, ["linear"], states, [0.5, 0.9]) for one in (MISTRAL, MAMBA)}
    assert {rule.skipped_state for rule in plans[MISTRAL]} == {"propagate"}
    assert {rule.skipped_state for rule in plans[MAMBA]} == {"propagate", "freeze"}
    assert [len(set(plan)) for plan in plans.values()] == [2, 4]


@pytest.mark.parametrize("text", ["tiny", "dynamax-mistral=", "llama=tiny"])
def test_a_backbone_is_a_model_and_a_checkpoint(text: str) -> None:
    with pytest.raises(SettingError, match="MODEL=CHECKPOINT"):
        read_backbone(text)


def test_what_cannot_be_evaluated_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no chosen model has it"):
        check_states(["freeze"], [MISTRAL])
    with pytest.raises(SettingError, match=r"1\.5"):
        rules(MISTRAL, ["linear"], ["propagate"], [1.5])
    for text, what in (("tree=x", "CLASSIFIER=FOLDER"), (f"ffn={tmp_path}", "no heads in")):
        with pytest.raises(SettingError, match=what):
            read_heads([text])


def test_given_heads_are_not_trained_and_experiments_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    used: list[Path] = []

    def train(backbone: Any, classifier: str, target: Path, options: Any) -> None:
        trained.append(f"{backbone.model} {classifier}")

    def evaluate(
        backbone: Any, grid: list[Rule], heads: dict[str, Path], folder: Path, options: Any
    ) -> Iterator[tuple[Rule, dict[str, Any]]]:
        used.append(heads["linear"])
        for rule in [Rule("full depth", "", 1.0), Rule("fixed depth 8", "propagate", 0.0), *grid]:
            yield rule, results(rule)

    monkeypatch.setattr(paper, "_train", train)
    monkeypatch.setattr(paper, "_evaluate", evaluate)
    given = tmp_path / "given"
    given.mkdir()
    (given / "config.json").write_text("{}")
    argv = ["--backbones", "dynamax-mistral=tiny", "dynamax-mamba=tiny", "--thresholds", "0.5", "1"]
    argv += ["--classifiers", "linear", "mamba", "--output_path", str(tmp_path / "own")]
    paper.main([*argv, "--heads", f"linear={given}"])
    assert trained == ["dynamax-mistral mamba", "dynamax-mamba mamba"]
    assert used == [given, given]
    assert len(json.loads((tmp_path / "own" / "rows.json").read_text())) == 2 * (2 + 2 * 2)
    assert (tmp_path / "own" / "paper.png").stat().st_size > 1000
    assert "dynamax-mamba" in capsys.readouterr().out
    for other in (["--limit", "5"], ["--seed", "1"], ["--width", "narrow"]):
        with pytest.raises(SettingError, match=f"{other[0]}={other[1]}"):
            paper.main([*argv, "--heads", f"linear={given}", *other])
    paper.main([*argv, "--heads", f"linear={given}", "--batch_size", "2"])


def test_the_table_says_what_was_found() -> None:
    table = markdown(found(MISTRAL, Rule("mamba", "propagate", 0.5)))
    for cell in ("9.25 ± 0.50", "25.0 %", "2.5 ± 0.1 %", "75.0 %", "0.310 ± 0.020 f1", "0.320"):
        assert f"| {cell} " in table


def test_the_best_setting_is_the_cheapest_that_agrees_enough() -> None:
    thresholds = (0.8, 0.9, 0.95, 1.0)  # whose agreements are 0.9, 0.95, 0.975 and 1
    some = [Rule("ffn", "propagate", one) for one in thresholds]
    line = best(found(MISTRAL, *some)).splitlines()[-1]
    assert "| 0.9 " in line
    assert "| 13.0 % " in line
    none = best(found(MISTRAL, *some[:1])).splitlines()[-1]
    assert "| none " in none


def test_the_page_has_the_tables_of_its_results() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "paper.md").read_text(encoding="utf-8")
    for data in (root / "benchmarks" / "paper" / "results").glob("*.json"):
        assert best(json.loads(data.read_text(encoding="utf-8"))) in page, data.name
    timed = list((root / "benchmarks" / "paper" / "results" / "seconds").glob("*.json"))
    assert len(timed) == 3
    for data in timed:
        assert table(json.loads(data.read_text(encoding="utf-8"))) in page, data.name


def test_seconds_are_ratios_to_full_depth_in_the_same_round() -> None:
    def block(prompt: float, answer: float, tokens: int) -> dict[str, Any]:
        return {
            "tasks": {"task": {"with_stop": {"tokens": tokens}}},
            "flops_saved": 0.25,
            "flops_saved_total": 0.01,
            "seconds": {"prompt": prompt, "answer": answer, "reference": 0.0},
        }

    full = row(FULL, "mode=full", [4.0, 8.0], [block(2.0, 1.0, 10), block(4.0, 2.0, 10)])
    half = row("ffn", "threshold=0.9", [2.0, 4.0], [block(2.0, 1.0, 20), block(2.0, 3.0, 20)])
    lines = table([full, half]).splitlines()
    assert "1.00 (1.00 to 1.00)" in lines[-2]
    # A token of an answer: (1/20) / (1/10) and (3/20) / (2/10); prompts: 2/2 and 2/4.
    for cell in ("25.0 %", "0.62 (0.50 to 0.75)", "0.75 (0.50 to 1.00)", "0.50 (0.50 to 0.50)"):
        assert cell in lines[-1]


@pytest.mark.parametrize("text", ["threshold=0.9", ": threshold=0.9", "name:", f"{FULL}: x=1"])
def test_a_timed_setting_has_a_name_of_its_own(text: str) -> None:
    with pytest.raises(SettingError, match="NAME: ARGUMENTS"):
        read_setting(text)
