"""A sweep goes on where it was, and only over files that are whole and of the same command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.loggers import EvaluationTracker

from dynamax_lm.common.errors import SettingError
from dynamax_lm.models.exit_model import DynamaxLM
from dynamax_lm.sweep.__main__ import main
from tests.checkpoints import save_checkpoint
from tests.sweep.sweeps import TASKS, points, sweep

pytestmark = pytest.mark.usefixtures("toys_alone")


def test_an_interrupted_sweep_goes_on_where_it_was(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    grid = ("--thresholds", "0.05,0.2,1")
    change = DynamaxLM.change

    def stop(lm: DynamaxLM, **own: Any) -> None:
        if own["threshold"] == 1:
            raise KeyboardInterrupt
        change(lm, **own)

    monkeypatch.setattr(DynamaxLM, "change", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep(checkpoints["mistral"], tmp_path, *grid)
    monkeypatch.setattr(DynamaxLM, "change", change)
    before = points(tmp_path)
    assert sorted(before) == ["threshold=0.05", "threshold=0.2"]
    (before["threshold=0.2"] / "point.json").unlink()  # as if it had stopped while writing
    written = {file: file.stat().st_mtime_ns for file in before["threshold=0.05"].iterdir()}
    capsys.readouterr()
    sweep(checkpoints["mistral"], tmp_path, *grid)
    assert {file: file.stat().st_mtime_ns for file in before["threshold=0.05"].iterdir()} == written
    (notes,) = tmp_path.glob("*/sweep.json")
    how = {one["folder"]: one["how"] for one in json.loads(notes.read_text())["points"]}
    assert how == {"threshold=0.05": "kept", "threshold=0.2": "rows", "threshold=1": "rows"}
    printed = capsys.readouterr()
    assert "[1/3] threshold=0.05: finished before" in printed.err
    assert printed.out.count("kept") == len(TASKS)
    assert not list(tmp_path.rglob("*.partial"))


def test_nothing_is_loaded_where_all_is_finished_and_another_command_runs_again(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(checkpoints["mistral"], tmp_path, "--thresholds", "0.05")
    with monkeypatch.context() as patch:
        patch.setattr("dynamax_lm.harness.command_line.Command.load", None)
        sweep(checkpoints["mistral"], tmp_path, "--thresholds", "0.05")
    sweep(checkpoints["mistral"], tmp_path, "--thresholds", "0.05", "--seed", "7")
    (folder,) = points(tmp_path).values()
    assert len(list(folder.glob("results_*.json"))) == 2


def test_a_sweep_with_traces_goes_on_where_it_was(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traces that a sweep writes are no other input for its second half."""
    more = ("--thresholds", "0.05", "--model_args", f"trace_dir={tmp_path / 'traces'}")
    sweep(checkpoints["mistral"], tmp_path / "out", *more)
    monkeypatch.setattr("dynamax_lm.harness.command_line.Command.load", None)
    sweep(checkpoints["mistral"], tmp_path / "out", *more)


def test_other_files_in_a_named_folder_are_another_command(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", "mistral")
    for seed in (0, 1):
        save_checkpoint(checkpoint, "mistral", seed=seed)
        sweep(checkpoint, tmp_path / "out", "--thresholds", "0.2", "--limit", "1")
    (folder,) = points(tmp_path / "out").values()
    assert len(list(folder.glob("results_*.json"))) == 2


def write_task(folder: Path, name: str, records: list[str], lead: str) -> Path:
    """A multiple choice of our own, whose records are beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"question": one, "options": ["yes", "no"]}) for one in records]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "task.yaml").write_text(
        f"""
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {folder}/records.jsonl}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{lead}{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
    )
    return folder


@pytest.mark.parametrize("changed", ["records", "template", "folder"])
def test_a_task_of_the_same_name_with_other_contents_runs_again(
    changed: str, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file, its documents or the folder it is found in; equal ones elsewhere are finished."""

    def finished(folder: Path) -> bool:
        given = f"pretrained={checkpoints['mistral']}"
        main(
            [
                *("--model", "dynamax-mistral", "--model_args", given, "--tasks", "own_mc"),
                *("--include_path", str(folder), "--thresholds", "0.2", "--device", "cpu"),
                *("--output_path", str(tmp_path / "out")),
            ]
        )
        return "finished before" in capsys.readouterr().err

    first = write_task(tmp_path / "a", "own_mc", ["one", "two"], "Q: ")
    assert not finished(first)
    assert finished(write_task(tmp_path / "b", "own_mc", ["one", "two"], "Q: "))
    if changed == "records":
        write_task(first, "own_mc", ["three", "four"], "Q: ")
    elif changed == "template":
        write_task(first, "own_mc", ["one", "two"], "Tell me: ")
    else:
        first = write_task(tmp_path / "c", "own_mc", ["five", "six"], "Q: ")
    assert not finished(first)


@pytest.mark.parametrize("harm", ["cut", "emptied", "removed", "changed"])
def test_a_point_whose_files_are_not_whole_is_not_finished(
    harm: str,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    grid = ("--thresholds", "0.2", "--limit", "2")
    sweep(checkpoints["mistral"], tmp_path, *grid)
    (folder,) = points(tmp_path).values()
    (file,) = folder.glob("samples_toy_gen_*.jsonl")
    content = file.read_bytes()
    if harm == "removed":
        file.unlink()
    else:
        harmed = {"cut": content[:-9], "emptied": b"", "changed": content.replace(b"0", b"1", 1)}
        file.write_bytes(harmed[harm])
    capsys.readouterr()
    sweep(checkpoints["mistral"], tmp_path, *grid)
    assert "finished before" not in capsys.readouterr().err
    sweep(checkpoints["mistral"], tmp_path, *grid)
    assert "finished before" in capsys.readouterr().err


def test_samples_that_were_not_written_whole_end_the_point(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval logs a full disk and continues."""
    save = EvaluationTracker.save_results_samples

    def cut(tracker: EvaluationTracker, **given: Any) -> None:
        save(tracker, **given)
        for file in Path(str(tracker.output_path)).parent.glob("samples_toy_mc_*"):
            file.write_bytes(file.read_bytes()[:-7])

    monkeypatch.setattr(EvaluationTracker, "save_results_samples", cut)
    with pytest.raises(SettingError, match="could not write samples_toy_mc_"):
        sweep(checkpoints["mistral"], tmp_path, "--thresholds", "0.2", "--limit", "2")
    assert not points(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
