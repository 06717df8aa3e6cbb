"""Every number of a sweep's points is recomputed from its traces, whatever is swept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamax_lm.report.__main__ import main as report
from dynamax_lm.report.load import load
from dynamax_lm.report.verify import verify
from tests.quick import results_in
from tests.sweep.sweeps import points, samples_in, sweep

pytestmark = pytest.mark.usefixtures("toys_alone")


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
