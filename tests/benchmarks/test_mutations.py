"""Mutation testing of `report --verify`, a sample: no change of a real run goes unnoticed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import lm_eval
import pytest

from benchmarks.validity import mutations as study
from benchmarks.validity.forgeries import forge, forgeries
from benchmarks.validity.run_folder import make_run, remake_manifest, shows
from dynamax_lm.common.manifest import Manifest, manifest_beside
from dynamax_lm.report.checks.rerun import LIST, listed
from dynamax_lm.report.load import load
from dynamax_lm.report.verify import verify

FULL_AGREEMENT = "full_depth := emitted, with all totals"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutations") / "run"
    with pytest.MonkeyPatch.context() as patch:
        known = {"lm_eval_version": lm_eval.__version__}  # without a look at the machine
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: results.update(known))
        patch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)
        return make_run(folder, limit=1)


@pytest.fixture(scope="module")
def folder(results: Path) -> Path:
    return results.parent.parent


def test_the_run_itself_verifies_with_every_check(folder: Path) -> None:
    found = verify(load([folder]))
    assert found.mismatches == []
    assert all("takes the model" in line for line in found.unchecked)


def test_the_manifest_lists_every_file_that_the_run_wrote(results: Path, folder: Path) -> None:
    path = manifest_beside(results)
    assert path is not None
    manifest = Manifest.read(path)
    wrote = {file.name for file in folder.rglob("*") if file.is_file()} - {path.name}
    assert {*manifest.files, *manifest.traces} == wrote


@pytest.mark.parametrize("how", study.HOWS)
def test_a_change_is_shown_or_its_field_is_listed(
    results: Path, folder: Path, how: study.How
) -> None:
    everything = list(study.mutations(folder, [how]))
    rng, tally = random.Random(0), study.Tally()
    for kind, count in {"results": 12, "samples": 8, "trace": 4, "manifest": 2}.items():
        ours = [one for one in everything if one.kind == kind]
        for mutation in rng.sample(ours, count):
            study.try_one(mutation, results, folder, tally)
    assert tally.missed == []
    assert tally.crashed == []
    tried = {key: count for key, count in tally.tried.items() if key[0] != "manifest"}
    assert dict(tally.by_manifest) == tried


@pytest.mark.parametrize("how", ["null", "dropped"])
def test_no_field_of_the_block_goes_unnoticed(results: Path, folder: Path, how: study.How) -> None:
    tally = study.Tally()
    every = list(study.block_mutations(folder, [how]))
    direct = [one for one in every if len(one.steps) == 3]  # where a release adds a value
    for mutation in direct + random.Random(0).sample(every, 10):
        study.try_one(mutation, results, folder, tally)
    assert tally.missed == []
    assert tally.crashed == []


@pytest.mark.parametrize("kind", ["results", "samples"])
def test_the_report_of_a_damaged_folder_is_written_or_refused(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    damaging = study.mutations(folder, ["null", "kind", "dropped"])
    ours = [one for one in damaging if one.kind == kind]
    for mutation in random.Random(1).sample(ours, 6):
        wrong = study.report_survives(mutation, folder, tmp_path, pictures=False)
        assert wrong is None, mutation


@pytest.mark.parametrize("label", sorted(set(forgeries()) - {FULL_AGREEMENT}))
def test_a_forgery_of_many_values_is_shown(results: Path, tmp_path: Path, label: str) -> None:
    assert forge(forgeries()[label], results, tmp_path / "forged")


@pytest.mark.parametrize("options", [{"do_sample": True, "temperature": 0.7}, "x", "dropped"])
def test_options_that_the_tasks_answers_did_not_have_are_shown(
    results: Path, folder: Path, options: Any
) -> None:
    kept = results.read_bytes()
    data = json.loads(kept)
    if options == "dropped":
        del data["config"]["gen_kwargs"]
    else:
        data["config"]["gen_kwargs"] = options
    try:
        results.write_text(json.dumps(data), encoding="utf-8")
        remake_manifest(results)
        assert any("dynamax_triviaqa_sample config" in line for line in shows(folder))
    finally:
        results.write_bytes(kept)
        remake_manifest(results)


def test_files_that_miss_or_are_new_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    (samples, *_) = (tmp_path / "run").rglob("samples_*.jsonl")
    samples.unlink()
    assert [line for line in shows(tmp_path / "run") if f"{samples}: missing" in line]


def test_what_is_listed_is_given_a_reason_once() -> None:
    assert len({(entry.file, entry.fields) for entry in LIST}) == len(LIST)
    assert all(entry.why for entry in LIST)
    assert listed("results", "config.early_exit.tasks.t.tokens") is None
