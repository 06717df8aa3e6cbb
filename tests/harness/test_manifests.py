"""When a run gets a manifest: after its last file, and only where every file was written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.manifest import Manifest
from dynamax_lm.harness.manifests import around_save_results, around_save_samples

STAMP = "2026-01-01T00-00-00.000000"
TASKS = ("one", "two")
SAMPLES: dict[str, Any] = {task: [{}] for task in TASKS}


def _results(folder: Path) -> dict[str, Any]:
    settings = {"trace_dir": str(folder / "traces")}
    return {
        "configs": {task: {} for task in TASKS},
        "results": {task: {"alias": task, "acc,none": 0.25} for task in TASKS},
        "versions": dict.fromkeys(TASKS, 1),
        "n-shot": dict.fromkeys(TASKS, 0),
        "higher_is_better": {task: {"acc": True} for task in TASKS},
        "config": {"early_exit": {"fingerprint": "f", "settings": settings}},
    }


class Host:
    """lm-eval's tracker: names files as it does, and writes them."""

    def __init__(self, folder: Path, *, fails: str = "", cuts: str = "") -> None:
        self.folder, self.fails, self.cuts = folder / "model", fails, cuts
        self.tracker = SimpleNamespace(
            output_path=str(folder),
            date_id=STAMP,
            general_config_tracker=SimpleNamespace(model_name_sanitized="model"),
        )
        self.folder.mkdir()
        (folder / "traces").mkdir()
        for task in TASKS:
            (folder / "traces" / f"trace_{task}.jsonl").write_text(task)

    def save_results(self, tracker: Any, results: Any, samples: Any = None) -> None:
        if self.fails != "results":
            text = '{"config": ' if self.cuts == "results" else "{}"
            (self.folder / f"results_{STAMP}.json").write_text(text)

    def save_samples(self, tracker: Any, task_name: str, samples: Any) -> None:
        if task_name != self.fails:  # lm-eval warns, and goes on
            text = '{"doc_id": ' if task_name == self.cuts else "{}\n"
            (self.folder / f"samples_{task_name}_{STAMP}.jsonl").write_text(text)

    def run(self, results: Any, samples: Any) -> list[bool]:
        """Whether there is a manifest after each step."""
        seen = []
        around_save_results(self.save_results, self.tracker, results=results, samples=samples)
        seen.append(self.manifest.is_file())
        for task in samples or ():
            around_save_samples(self.save_samples, self.tracker, task_name=task, samples=[])
            seen.append(self.manifest.is_file())
        return seen

    @property
    def manifest(self) -> Path:
        return self.folder / f"manifest_{STAMP}.json"


def test_it_follows_the_last_task_and_lists_every_file(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.run(_results(tmp_path), SAMPLES) == [False, False, True]
    read = Manifest.read(host.manifest)
    wrote = {path.name for path in host.folder.iterdir()} - {host.manifest.name}
    assert set(read.files) == wrote
    assert set(read.traces) == {path.name for path in (tmp_path / "traces").iterdir()}
    assert read.fingerprint == "f"


def test_without_samples_it_follows_the_results(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.run(_results(tmp_path), None) == [True]
    assert set(Manifest.read(host.manifest).files) == {f"results_{STAMP}.json"}


@pytest.mark.parametrize("how", ["fails", "cuts"])
@pytest.mark.parametrize("what", ["results", "two"])
def test_a_file_that_could_not_be_written_whole_ends_the_run_after_its_table(
    tmp_path: Path, what: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where lm-eval goes on with status 0."""
    host = Host(tmp_path, **{how: what})
    name = f"results_{STAMP}.json" if what == "results" else f"samples_{what}_{STAMP}.jsonl"
    with pytest.raises(SettingError, match=f"could not write {name} "):
        host.run(_results(tmp_path), SAMPLES)
    assert "0.25" in capsys.readouterr().out
    assert not host.manifest.exists()
    assert not (host.folder / name).exists()


def test_a_results_file_of_another_name_has_no_manifest(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.tracker.output_path = str(host.folder / "mine.json")
    (host.folder / f"mine_{STAMP}.json").write_text("{}")
    assert host.run(_results(tmp_path), SAMPLES) == [False, False, False]


@pytest.mark.parametrize("results", [{}, {"config": {}}, {"config": {"early_exit": {}}}])
def test_other_models_runs_have_none(tmp_path: Path, results: dict[str, Any]) -> None:
    assert not any(Host(tmp_path).run(results, SAMPLES))


def test_no_output_path_means_no_manifest(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.tracker.output_path = None
    assert not any(host.run(_results(tmp_path), None))
