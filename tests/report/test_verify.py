"""What follows from a run's files is verified, and what they do not determine is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import GENERATION, Made, Plan, verified, write_run

from dynamax_lm.report.load import load
from dynamax_lm.report.verify import verify


def test_what_the_files_do_not_determine_is_said(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    for path in (*made.samples.values(), *made.traces.iterdir()):
        path.unlink()
    found = verified(made)
    assert not found.mismatches
    assert [line for line in found.unchecked if "no samples" in line]
    assert [line for line in found.unchecked if "no trace" in line]


def test_the_totals_own_arithmetic_is_checked_without_a_trace(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    for path in made.traces.iterdir():
        path.unlink()
    data = made.data()
    data["config"]["early_exit"]["tasks"]["gen"]["flops_saved"] += 0.01
    made.change(data)
    assert [line for line in verified(made).mismatches if "flops_saved" in line]


def test_bills_that_depths_do_not_determine_are_left(tmp_path: Path) -> None:
    made = write_run(tmp_path)
    data = made.data()
    data["config"]["early_exit"]["settings"]["heads"] = "some/heads"
    del data["config"]["early_exit"]["costs"]["exit_extras"]
    made.change(data)
    found = verified(made)
    assert not [line for line in found.mismatches if "flops" in line]
    assert [line for line in found.unchecked if "FLOPs" in line]


def test_bills_of_heads_are_checked_by_the_costs_that_the_run_wrote_down(tmp_path: Path) -> None:
    made = write_run(tmp_path)
    data = made.data()
    block = data["config"]["early_exit"]
    block["settings"]["heads"] = "some/heads"
    extra = {"classifier": 0, "translator": 0}
    block["costs"]["exit_extras"] = [extra for _ in block["settings"]["exit_layers"]]
    made.change(data)
    found = verified(made)
    assert not [line for line in found.mismatches if "flops" in line]
    assert not [line for line in found.unchecked if "FLOPs" in line]
    extra["translator"] = 2
    made.change(data)
    assert [line for line in verified(made).mismatches if "flops_saved" in line]


def test_a_metric_that_is_not_in_closed_form_is_left(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    data = made.data()
    data["configs"]["gen"]["metric_list"][0]["aggregation"] = "bleu"
    data["results"]["gen"]["em,none"] = 7.0
    made.change(data)
    found = verified(made)
    assert not found.mismatches
    assert [line for line in found.unchecked if "bleu" in line]


def test_groups_are_averages_of_their_tasks(tmp_path: Path) -> None:
    made = write_run(tmp_path)
    data = made.data()
    parts = [data["results"][task]["layers_used,none"] for task in ("gen", "mc")]
    data["group_subtasks"] = {"both": ["gen", "mc"]}
    data["results"]["both"] = {"layers_used,none": sum(parts) / 2}
    data["config"]["bootstrap_iters"] = 0
    for task in ("gen", "mc"):
        errors = [key for key in data["results"][task] if "_stderr," in key]
        data["results"][task] |= dict.fromkeys(errors, "N/A")
    made.change(data)
    assert not verified(made).mismatches
    data["results"]["both"]["layers_used,none"] += 0.01
    made.change(data)
    assert [line for line in verified(made).mismatches if "group both layers_used" in line]


def test_what_takes_the_model_is_counted(tmp_path: Path) -> None:
    """An answer that is not all full depth's says nothing of full depth's own answer."""
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}, documents=20))
    samples = [json.loads(line) for line in made.samples["gen"].read_text().splitlines()]
    implied = sum(sample["agreement_with_stop"] == 1.0 for sample in samples)
    assert 0 < implied < 20
    (line,) = (one for one in verified(made).unchecked if "takes the model" in one)
    assert f"gen ({20 - implied} documents): consistency" in line


def test_a_trace_that_a_later_run_replaced_is_named_with_that_run(tmp_path: Path) -> None:
    """One trace_dir for two runs: the first one's tokens are gone, and none of it is wrong."""
    plan = Plan(tasks={"gen": GENERATION}, documents=8)
    shared = {"trace_dir": str(tmp_path / "traces")}
    first = write_run(tmp_path / "a", replace(plan, settings=shared, threshold=0.9))
    second = write_run(tmp_path / "b", replace(plan, settings=shared, seed=1))
    shutil.rmtree(first.traces)
    second.traces.rename(tmp_path / "traces")
    first.manifest.unlink()
    found = verify(load([tmp_path]))
    assert found.mismatches == []
    (line,) = (line for line in found.unchecked if "trace_dir" in line)
    assert line.startswith(str(first.results))
    assert str(second.results) in line

    second.results.unlink()  # now nobody owns the trace, and it may as well have been changed
    mismatches = verify(load([tmp_path])).mismatches
    assert "another run with the same trace_dir has replaced" in mismatches[0]


def test_a_reason_is_told_once_however_often_it_holds(tmp_path: Path) -> None:
    for name in "abc":
        made = write_run(tmp_path / name, Plan(tasks={"gen": GENERATION}))
        for path in made.traces.iterdir():
            path.unlink()
    (line,) = (x for x in verify(load([tmp_path])).unchecked if "no trace" in x)
    assert " and 2 more: " in line


@pytest.mark.parametrize("settings", [{}, {"mode": "full", "exit_layers": []}])
def test_a_run_whose_prompts_exit_follows_from_its_files(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    """Its bill, and that no token is full depth's by definition; the layer is in every row."""
    made = write_run(tmp_path, Plan(settings=settings | {"prompt_exit": 2}))
    if settings:
        no_confidence(made)
    data = made.data()
    data["config"]["model_args"] |= {"prompt_exit": 2, "mode": settings.get("mode", "exit")}
    made.change(data)
    assert not verified(made).mismatches
    flops = data["config"]["early_exit"]["with_stop"]["ledger"]["flops"]
    assert flops["prompt_saved"] > 0
    for other in (3, None):
        data["config"]["early_exit"]["settings"]["prompt_exit"] = other
        made.change(data)
        wrong = "\n".join(verified(made).mismatches)
        assert "prompt_exit is 2, in the settings" in wrong
        assert "flops prompt" in wrong


def test_a_run_with_prompt_maps_follows_from_its_files(tmp_path: Path) -> None:
    """Their cost is in the bill, and the maps described are those of the settings."""
    own = {"prompt_exit": 2, "prompt_maps": "some/maps", "prompt_maps_fingerprint": "0123"}
    made = write_run(tmp_path, Plan(settings=own, maps=64))
    data = made.data()
    data["config"]["model_args"] |= {"prompt_exit": 2, "prompt_maps": "some/maps"}
    made.change(data)
    assert not verified(made).mismatches
    assert any("maps are not here" in line for line in verified(made).unchecked)
    for part, name, value, words in (
        ("costs", "prompt_maps", 65, "flops prompt"),
        ("settings", "prompt_maps", "others", "settings prompt_maps"),
        ("settings", "prompt_maps_fingerprint", "4567", "prompt_maps fingerprint"),
        ("prompt_maps", "prompt_exit", 3, "prompt_maps prompt_exit"),
    ):
        tampered = made.data()
        tampered["config"]["early_exit"][part][name] = value
        made.change(tampered)
        assert words in "\n".join(verified(made).mismatches)
        made.change(data)


def no_confidence(made: Made) -> None:
    """Rows as of a run without exits."""
    for path in made.traces.iterdir():
        rows = [json.loads(line) | {"confidence": None} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
