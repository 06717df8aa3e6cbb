"""Any mix of folders, and one clear line for every damaged file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.common.errors import SettingError
from dynamax_lm.report.load import load

ONE = {"gen": GENERATION}


def test_runs_of_any_model_are_found_once(tmp_path: Path) -> None:
    made = write_run(tmp_path / "a" / "deep")
    write_plain(tmp_path / "b")
    library = load([tmp_path, tmp_path / "a", made.results])
    assert sorted(run.model for run in library.runs) == ["dynamax-mistral", "hf"]
    assert library.problems == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"results": 3}', "\x00"])
def test_a_broken_results_file_costs_itself_alone(tmp_path: Path, text: str) -> None:
    write_run(tmp_path / "good")
    broken = tmp_path / "results_broken.json"
    broken.write_text(text)
    library = load([tmp_path])
    assert len(library.runs) == 1
    (problem,) = library.problems
    assert str(broken) in problem
    assert problem.endswith("the run is left out")
    assert "\n" not in problem


def test_a_truncated_samples_file_is_named_with_its_line(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    text = made.samples["gen"].read_text()
    made.samples["gen"].write_text(text[: len(text) - 30])
    library = load([tmp_path])
    assert library.samples(library.runs[0], "gen") is None
    assert library.samples(library.runs[0], "gen") is None
    (problem,) = library.problems
    assert f"{made.samples['gen']}, line 5" in problem


def test_a_truncated_trace_is_named(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    (trace,) = made.traces.iterdir()
    trace.write_text(trace.read_text()[:-9])
    library = load([tmp_path])
    assert library.trace(library.runs[0], "gen") is None
    assert str(trace) in library.problems[0]


def test_another_runs_trace_is_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", Plan(tasks=ONE))
    second = write_run(tmp_path / "b", Plan(tasks=ONE, seed=1, exits=(2, 4)))
    for path in second.traces.iterdir():
        (first.traces / path.name).write_bytes(path.read_bytes())
    library = load([first.results])
    assert library.trace(library.runs[0], "gen") is None
    assert "another run's" in library.problems[0]


def test_a_trace_of_equal_depths_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    """Two runs may use the same depths on other answers."""
    made = write_run(tmp_path, Plan(tasks=ONE))
    library = load([tmp_path])
    assert library.trace(library.runs[0], "gen")
    (trace,) = made.traces.iterdir()
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    rows[0]["token"] += 1
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    library = load([tmp_path])
    assert library.trace(library.runs[0], "gen") is None
    assert "may be another run's, or was changed" in library.problems[0]


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_trace_without_a_manifest_that_lists_it_is_refused(tmp_path: Path, damage: str) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    if damage == "gone":
        made.manifest.unlink()
    else:
        made.manifest.write_text(made.manifest.read_text()[:40])
    library = load([tmp_path])
    assert library.trace(library.runs[0], "gen") is None
    assert str(made.manifest) in library.problems[0]
    assert "manifest cannot be read" in library.problems[0]


def test_traces_are_found_where_the_results_were_moved(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(tasks=ONE))
    (tmp_path / "a").rename(tmp_path / "b")
    library = load([tmp_path / "b"])
    assert library.trace(library.runs[0], "gen")


def test_traces_of_a_sweep_are_found_where_its_folder_was_moved(tmp_path: Path) -> None:
    """A point's results are two folders deep, and its traces in one of the same name."""
    for number, point in enumerate(("threshold=0.5", "threshold=0.6")):
        made = write_run(tmp_path / "was" / "model" / point, Plan(tasks=ONE, seed=number))
        traces = tmp_path / "was" / "traces" / point
        traces.parent.mkdir(exist_ok=True)
        made.traces.rename(traces)
        data = made.data()
        data["config"]["early_exit"]["settings"]["trace_dir"] = str(traces)
        made.change(data)
    (tmp_path / "was").rename(tmp_path / "now")
    library = load([tmp_path / "now"])
    assert all(library.trace(run, "gen") for run in library.runs)


def test_nothing_to_read_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such file or folder"):
        load([tmp_path / "nowhere"])
    with pytest.raises(SettingError, match=r"no results_\*\.json"):
        load([tmp_path])


def test_a_point_that_a_cut_sweep_left_half_written_is_no_run(tmp_path: Path) -> None:
    write_run(tmp_path / "whole")
    write_run(tmp_path / ".threshold=0.5.partial")
    (run,) = load([tmp_path]).runs
    assert run.path.parent.name == "whole"
