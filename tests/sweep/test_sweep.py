"""A sweep's points are separate runs in everything but the time they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from dynamax_lm.common.errors import SettingError
from dynamax_lm.models.exit_model import DynamaxLM
from dynamax_lm.report.__main__ import main as report
from dynamax_lm.report.load import load
from dynamax_lm.report.verify import verify
from dynamax_lm.sweep.__main__ import main
from tests.checkpoints import save_checkpoint, save_checkpoints
from tests.quick import results_in

pytestmark = pytest.mark.usefixtures("toys_alone")

TOYS = str(Path(__file__).parents[1] / "harness" / "toys")
TASKS = ["toy_gen", "toy_mc", "toy_rolling"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_checkpoints(tmp_path_factory, ("mistral", "mamba2"))


def sweep(checkpoint: Path, output: Path, *more: str, kind: str = "mistral") -> None:
    model = "dynamax-mamba" if kind == "mamba2" else "dynamax-mistral"
    main(
        [
            *("--model", model, "--model_args", f"pretrained={checkpoint},dtype=float32"),
            *("--tasks", ",".join(TASKS), "--include_path", TOYS, "--limit", "3"),
            *("--batch_size", "2", "--device", "cpu", "--gen_kwargs", "max_gen_toks=12"),
            *("--output_path", str(output), *more),
        ]
    )


def samples_in(folder: Path) -> dict[str, str]:
    return {file.name.split("_20")[0]: file.read_text() for file in folder.glob("samples_*")}


def points(output: Path) -> dict[str, Path]:
    return {folder.name: folder for folder in output.glob("*/*=*")}


def separate_run(model: str, model_args: dict[str, Any], output: Path) -> Path:
    """What ``lm_eval`` does with the same options (``lm_eval/_cli/run.py``)."""
    tracker = EvaluationTracker(output_path=str(output))
    results = simple_evaluate(
        model=model,
        model_args=model_args,
        tasks=list(TASKS),
        task_manager=TaskManager(
            include_path=TOYS, include_defaults=False, metadata=dict(model_args)
        ),
        limit=3,
        batch_size="2",
        device="cpu",
        evaluation_tracker=tracker,
        fewshot_as_multiturn=None,
        gen_kwargs={"max_gen_toks": 12},
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    (folder,) = output.iterdir()
    return folder


def comparable(results: dict[str, Any]) -> dict[str, Any]:
    for name in ("date", "total_evaluation_time_seconds"):
        del results[name]
    block = results["config"]["early_exit"]
    del block["seconds"]
    block.pop("rows_in_flight", None)  # of a run by itself; a sweep's rows are those of its batches
    for totals in (block, *block["tasks"].values()):
        del totals["agreement_noise"]  # of a derived score there is no second pass to measure it
    return results


GRIDS = {
    "recompute": ("0.02,0.05,1", {"derived", "partly"}),
    "propagate": ("0.05,0.2,1", {"rows"}),
    "copy_kv": ("0.05,0.2", {"rows"}),
    "freeze": ("0.05,0.2", {"rows"}),
}
"""Thresholds for a skipped state, and how the points then come about."""


@pytest.mark.parametrize(
    ("kind", "skipped"),
    [
        ("mistral", "recompute"),
        ("mamba2", "recompute"),
        ("mistral", "propagate"),
        ("mamba2", "propagate"),
        ("mistral", "copy_kv"),
        ("mamba2", "freeze"),
    ],
)
def test_a_point_that_shares_its_passes_equals_a_separate_run(
    kind: str,
    skipped: str,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same answers, depths and bills; log-probabilities to the tolerance of float32."""
    thresholds, expected = GRIDS[skipped]
    grid = ("--thresholds", thresholds, "--vary", f"skipped_state={skipped}")
    sweep(checkpoints[kind], tmp_path / "sweep", *grid, kind=kind)
    printed = capsys.readouterr()
    many = f"under {len(points(tmp_path / 'sweep'))} settings: under a minute"
    assert printed.err.count(many) == 3, "once for each type of request, by the first point"
    depths, ways = set(), set()
    for name, folder in points(tmp_path / "sweep").items():
        own = dict(pair.split("=") for pair in name.split(","))
        args = {"pretrained": str(checkpoints[kind]), "dtype": "float32"}
        args |= own | {"threshold": float(own["threshold"])}
        model = "dynamax-mamba" if kind == "mamba2" else "dynamax-mistral"
        separate = separate_run(model, args, tmp_path / name)
        ours, other = comparable(results_in(folder)), comparable(results_in(separate))
        assert_close(ours, other)
        assert ours["config"]["early_exit"] == other["config"]["early_exit"], "depths and bills"
        for task, lines in samples_in(folder).items():
            assert_close(_rows(lines), _rows(samples_in(separate)[task]))
        note = json.loads((folder / "point.json").read_text())
        assert note["requests"]["run"] == 0 or skipped != "recompute", "long windows run alone"
        assert (note["how"] == "partly") == bool(note["requests"]["partly"])
        assert f"{name}: {note['how']}, " in printed.err
        ways.add(note["how"])
        depths.add(ours["results"]["toy_gen"]["layers_used,clean"])
    assert len(depths) > 1, "the settings must differ for this to mean anything"
    assert ways == expected


def _rows(lines: str) -> list[dict[str, Any]]:
    """Without the digests of responses, which a last bit changes."""
    rows = [json.loads(line) for line in lines.splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith(("_hash", "_noise"))} for row in rows]


def assert_close(ours: Any, other: Any) -> None:
    """Equal but for the last bits of numbers, which lm-eval writes as text in samples."""
    if isinstance(ours, dict):
        assert ours.keys() == other.keys()
        for key in ours:
            assert_close(ours[key], other[key])
    elif isinstance(ours, list):
        assert len(ours) == len(other)
        for a, b in zip(ours, other, strict=True):
            assert_close(a, b)
    elif ours != other:
        assert float(ours) == pytest.approx(float(other), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_point_run_by_itself_equals_a_separate_run_to_the_last_bit(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    vary = "skipped_state=propagate,freeze" if kind == "mamba2" else "skipped_state=copy_kv"
    swept = ("--thresholds", "0.05:0.2:0.15", "--vary", vary, "--tokens_at_once", "0")
    sweep(checkpoints[kind], tmp_path / "sweep", *swept, kind=kind)
    found = points(tmp_path / "sweep")
    assert len(found) == (4 if kind == "mamba2" else 2)
    depths = set()
    for name, folder in found.items():
        own = dict(pair.split("=") for pair in name.split(","))
        args = {"pretrained": str(checkpoints[kind]), "dtype": "float32"}
        args |= own | {"threshold": float(own["threshold"])}
        model = "dynamax-mamba" if kind == "mamba2" else "dynamax-mistral"
        separate = separate_run(model, args, tmp_path / name)
        ours = comparable(results_in(folder))
        assert ours == comparable(results_in(separate))
        assert samples_in(folder) == samples_in(separate)
        assert len(samples_in(folder)) == len(TASKS)
        depths.add(ours["results"]["toy_gen"]["layers_used,clean"])
    assert len(depths) > 1, "the settings must differ for this to mean anything"


def test_single_points_are_separate_runs_whatever_came_before(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    single: dict[str, dict[str, Any]] = {
        "mode=full": {"mode": "full"},
        "exit_rule=fixed_depth,exit_layers=2": {"exit_rule": "fixed_depth", "exit_layers": 2},
        "threshold=0.05": {"threshold": 0.05},
    }
    options = [part for name in list(single)[:2] for part in ("--point", name)]
    sweep(checkpoints["mistral"], tmp_path / "sweep", "--thresholds", "0.02", *options)
    sweep(checkpoints["mistral"], tmp_path / "sweep", *options, "--point", "threshold=0.05")
    found = points(tmp_path / "sweep")
    assert set(found) == {"threshold=0.02", *single}
    for name, own in single.items():
        args = {"pretrained": str(checkpoints["mistral"]), "dtype": "float32"} | own
        separate = separate_run("dynamax-mistral", args, tmp_path / name)
        ours, other = comparable(results_in(found[name])), comparable(results_in(separate))
        assert ours["config"]["early_exit"] == other["config"]["early_exit"]
        assert_close(ours, other)


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


def test_a_file_for_an_output_path_is_refused_before_the_work(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setattr("dynamax_lm.harness.command_line.Command.load", None)
    with pytest.raises(SettingError, match="taken is a file"):
        sweep(checkpoints["mistral"], tmp_path / "taken", "--thresholds", "0.05")


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


def test_an_argument_that_needs_loading_is_swept_too(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    grid = ("--vary", "max_length=48,64", "--thresholds", "0.2", "--no-log_samples")
    sweep(checkpoints["mistral"], tmp_path, *grid)
    found = points(tmp_path)
    lengths = {name: results_in(folder)["max_length"] for name, folder in found.items()}
    assert lengths == {"max_length=48,threshold=0.2": 48, "max_length=64,threshold=0.2": 64}
    assert not any(samples_in(folder) for folder in found.values())


def test_each_point_writes_traces_of_its_own(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    sweep(
        checkpoints["mistral"],
        tmp_path / "out",
        *("--thresholds", "0.05,1", "--model_args", f"trace_dir={traces}"),
    )
    files = {file.parent.name: file.read_text() for file in traces.glob("*/trace_toy_gen.jsonl")}
    assert set(files) == {"threshold=0.05", "threshold=1"}
    assert len(set(files.values())) == 2


def test_every_number_of_derived_points_and_of_rows_is_recomputed(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    sweep(
        checkpoints["mistral"],
        tmp_path / "out",
        *("--thresholds", "0.02,0.05", "--vary", "skipped_state=propagate,recompute"),
        *("--model_args", f"trace_dir={tmp_path / 'traces'}"),
    )
    library = load([tmp_path / "out"])
    found = verify(library)
    assert len(library.runs) == 4
    assert not found.mismatches + library.problems, found.mismatches[:3]
    left = (
        "takes the model",
        "the task's own code",
        "tokenizer",
        "another release of",
        "no manifest",
    )
    assert [line for line in found.unchecked if not any(why in line for why in left)] == []
    bills = [run.early_exit["ledger"]["flops"] for run in library.runs if run.early_exit]
    assert sum(bill["recomputation"] > 0 for bill in bills) == 2


def test_looks_are_swept_told_apart_and_verified(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Depths, bills and settings of cheap looks."""
    looks = ["full", "rank:4+refine:9", "rank:4+shortlist:9"]
    sweep(
        checkpoints["mistral"],
        tmp_path / "out",
        *("--thresholds", "0.05", "--vary", f"look={','.join(looks)}"),
        *("--tasks", "toy_gen,toy_mc", "--model_args", f"trace_dir={tmp_path / 'traces'}"),
    )
    library = load([tmp_path / "out"])
    found = verify(library)
    assert not found.mismatches + library.problems, found.mismatches[:3]
    blocks = [run.early_exit for run in library.runs if run.early_exit]
    assert len({block["fingerprint"] for block in blocks}) == 3
    assert sorted({block["settings"].get("look", "full") for block in blocks}) == looks
    assert {block["settings"]["confidence"] for block in blocks} == {"top_prob"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--thresholds", "2"), "threshold=2"),
        (("--thresholds", "0.5", "--vary", "look=rank:999"), "has rank 16 at most"),
        (("--thresholds", "0.5", "--vary", "confidence=mood"), "confidence=mood"),
        (("--thresholds", "0.5", "--vary", "confidance=margin"), "did you mean confidence"),
        (("--vary", "exit_layers=1,9"), "exit_layers=.*9"),
        (("--thresholds", "0.5", "--memory_gib", "-1"), "--memory_gib -1"),
        (("--thresholds", "0.5", "--tokens_at_once", "-1"), "--tokens_at_once -1"),
        (("--thresholds", "0.5", "--tasks", "no_such_task"), "no_such_task"),
        (("--thresholds", "0.5", "--limit", "0"), "--limit 0"),
        (("--thresholds", "0.5", "--limit", "inf"), "--limit inf"),
        (("--thresholds", "0.5", "--limit", "nan"), "--limit nan"),
        (("--thresholds", "0.5", "--seed", "-1"), "--seed -1"),
        (("--thresholds", "0.5", "--device", "banana"), "device=banana"),
        (("--thresholds", "0:1:1e-999999"), "more than 10000 points"),
        (("--thresholds", "0:1:1e-5"), "more than 10000 points"),
        (("--thresholds", "0.5", "--model", "hf"), "--model hf: choose one of dynamax-mistral"),
        ((), "nothing to sweep"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_written(
    more: tuple[str, ...], told: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        sweep(checkpoints["mistral"], tmp_path, *more)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_lossless_points_vary_in_exit_and_draft_length(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All have the same texts, and a speed: in the table, and in the report's picture."""
    sweep(
        *(checkpoints[kind], tmp_path / "sweep", "--thresholds", "0.0"),
        *("--vary", "mode=lossless", "--vary", "exit_layers=1,2", "--vary", "draft_length=1,auto"),
        kind=kind,
    )
    head, _, *rows = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
    heads = [cell.strip() for cell in head.split("|")]
    place = heads.index("Speed")
    assert all(float(row.split("|")[place]) > 0 for row in rows)
    drafts = {}
    for name, folder in points(tmp_path / "sweep").items():
        results = results_in(folder)
        block = results["config"]["early_exit"]
        assert block["speed"]["documents"] > 0
        assert block["agreement"] == 1.0
        drafts[name] = block["drafts"]
        texts = [
            json.loads(line)["resps"] for line in samples_in(folder)["samples_toy_gen"].splitlines()
        ]
        drafts[name]["texts"] = texts
    assert len(drafts) == 4
    assert len({str(one["texts"]) for one in drafts.values()}) == 1
    assert len({str({**one, "texts": None}) for one in drafts.values()}) > 1, (
        "settings had no effect"
    )
    assert report([str(tmp_path / "sweep"), "--output_path", str(tmp_path / "report")]) == 0
    assert list((tmp_path / "report").rglob("*_speed*"))
