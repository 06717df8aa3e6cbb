"""lm-eval's own sinks get all that they get of ``hf``, and our numbers beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from recorders import Sinks

from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.models.lm import DynamaxMistral
from tests.checkpoints import save_checkpoint
from tests.quick import only_toys, run_lm_eval

TOYS = str(Path(__file__).parent / "toys")
TASKS = "toy_group,toy_gen,toy_ll"  # the group: toy_mc, toy_mc_few, toy_rolling
MODELS = {"mistral": "dynamax-mistral", "mamba2": "dynamax-mamba"}
REPO = "someone/details-private"
HOW = ("hf", "full", "exit")


@dataclass(frozen=True)
class Ran:
    """One ``lm_eval`` command: what its sinks got and what lies on the disk."""

    sinks: Sinks
    output: Path

    @property
    def results(self) -> dict[str, Any]:
        (file,) = self.output.rglob("results_*.json")
        return dict(json.loads(file.read_text()))

    def samples(self, task: str) -> list[dict[str, Any]]:
        (file,) = self.output.rglob(f"samples_{task}_20*.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module", params=MODELS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same command for lm-eval's ``hf``, for ours at full depth, and for ours with exits."""
    folder = tmp_path_factory.mktemp(request.param)
    save_checkpoint(folder / "checkpoint", request.param)
    ours = MODELS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
        patch.chdir(folder)  # a checkpoint's path is its path on the hub
        return {
            "hf": lm_eval(patch, folder / "hf", "hf"),
            "full": lm_eval(patch, folder / "full", ours, "mode=full"),
            "exit": lm_eval(patch, folder / "exit", ours, "threshold=0.3"),
        }


def lm_eval(patch: pytest.MonkeyPatch, folder: Path, model: str, *more: str) -> Ran:
    """``lm_eval`` with every sink."""
    sinks = Sinks(folder)
    sinks.install(patch)
    only_toys(patch)
    arguments = ",".join(("pretrained=checkpoint", "dtype=float32", *more))
    run_lm_eval(
        patch,
        *("--model", model, "--model_args", arguments, "--device", "cpu"),
        *("--tasks", TASKS, "--include_path", TOYS, "--limit", "3", "--batch_size", "1"),
        *("--gen_kwargs", "max_gen_toks=8", "--log_samples", "--output_path", str(folder / "out")),
        *("--wandb_args", "project=p", "--trackio_args", "project=p", "--hf_hub_log_args"),
        "hub_results_org=someone,details_repo_name=details,token=secret,"
        "push_results_to_hub=True,push_samples_to_hub=True",
    )
    return Ran(sinks, folder / "out")


def is_ours(name: str) -> bool:
    """Whether a metric's or column's name, with whatever lm-eval puts around it, is ours."""
    bare = name.rpartition("/")[2].partition(",")[0].removesuffix("_stderr")
    return bare in HIGHER_IS_BETTER or bare.startswith("full_depth_")


def theirs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is ours, also inside (a group counts the samples of each metric)."""
    return {
        name: theirs(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if not is_ours(name)
    }


def close(found: Any, expected: Any) -> bool:
    """Equal, numbers (also inside of texts, where they stand in sentences) to float32."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, str) and isinstance(found, str):
        return found == expected or close(
            list(map(_word, found.split())), [*map(_word, expected.split())]
        )
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, rel=1e-4, abs=1e-5))
    return bool(found == expected)


def _word(word: str) -> Any:
    try:
        return float(word)
    except ValueError:
        return {word: None}


@pytest.mark.parametrize("how", HOW)
def test_no_sink_refuses_anything_and_all_end(runs: dict[str, Ran], how: str) -> None:
    sinks = runs[how].sinks
    assert not sinks.strict.problems
    assert sinks.wandb.finished
    assert sinks.trackio.finished
    assert sinks.wandb.arguments == sinks.trackio.arguments == {"project": "p"}


@pytest.mark.parametrize("how", HOW[1:])
def test_wandb_gets_all_that_it_gets_of_hf(runs: dict[str, Ran], how: str) -> None:
    expected, found = runs["hf"].sinks.wandb, runs[how].sinks.wandb
    assert theirs(found.numbers).keys() == expected.numbers.keys()
    assert theirs(found.summarised) == expected.summarised
    assert found.artifacts.keys() == expected.artifacts.keys()
    assert found.tables.keys() == expected.tables.keys()
    for name, table in expected.tables.items():
        rows = [row for row in found.tables[name].rows if not is_ours(str(row.get("Metric")))]
        assert [theirs(row).keys() for row in rows] == [row.keys() for row in table.rows]
        for row, other in zip(rows, table.rows, strict=True):
            names_metrics = row.get("Metric") == "sample_count"  # in words, so ours too
            assert how != "full" or names_metrics or close(theirs(row), other), name
    if how == "full":
        assert close(theirs(found.numbers), expected.numbers)


@pytest.mark.parametrize("how", HOW[1:])
def test_trackio_gets_all_that_it_gets_of_hf(runs: dict[str, Ran], how: str) -> None:
    expected, found = runs["hf"].sinks.trackio, runs[how].sinks.trackio
    assert theirs(found.numbers).keys() == expected.numbers.keys()
    stripped = [trace | {"metadata": theirs(trace["metadata"])} for trace in found.traces]
    assert [one["metadata"].keys() for one in stripped] == [
        one["metadata"].keys() for one in expected.traces
    ]
    if how == "full":
        assert close(stripped, expected.traces)
        assert close(theirs(found.numbers), expected.numbers)


@pytest.mark.parametrize("how", HOW[1:])
def test_the_hub_gets_all_that_it_gets_of_hf(runs: dict[str, Ran], how: str) -> None:
    expected, found = runs["hf"].sinks.hub, runs[how].sinks.hub
    hf, ours = ([(kind, _undated(to)) for kind, to in hub.events] for hub in (expected, found))
    assert ours == hf
    hf, ours = ({_undated(name) for name in hub.files(REPO)} for hub in (expected, found))
    assert ours == hf
    for task in runs["hf"].results["configs"]:
        pairs = zip(runs[how].samples(task), runs["hf"].samples(task), strict=True)
        for one, other in pairs:
            assert theirs(one).keys() == other.keys()
            assert [key for key in one["metrics"] if not is_ours(key)] == other["metrics"]
    card = found.cards[REPO]
    for line in expected.cards[REPO].splitlines():
        if line.startswith("- config_name"):
            assert line in card


def _undated(name: str) -> str:
    return name.partition("_20")[0]


@pytest.mark.parametrize("how", HOW[1:])
def test_numbers_in_the_sinks_are_those_of_the_results_file(runs: dict[str, Ran], how: str) -> None:
    ran = runs[how]
    results = ran.results
    wandb, trackio = ran.sinks.wandb, ran.sinks.trackio
    shown = 0
    for task, values in results["results"].items():
        for key, value in values.items():
            if not is_ours(key):
                continue
            name = f"{task}/{key.removesuffix(',none')}"
            logged = wandb.summarised if isinstance(value, str) else wandb.numbers  # "N/A"
            assert logged[name] == value
            assert isinstance(value, str) or trackio.numbers[name] == value
            shown += 1
    stops = {key for key in HIGHER_IS_BETTER if "stop" in key}
    always = len(HIGHER_IS_BETTER.keys() - stops) - 1  # noise stands where there is some
    assert shown >= 2 * always * len(results["configs"])
    for key in stops:
        assert any(name.startswith(f"toy_gen/{key}") for name in wandb.numbers)
    for key, name in (("results", "eval_results"), ("groups", "group_eval_results")):
        table = wandb.tables[f"evaluation/{name}"]
        first = table.columns[0]
        rows = {(row[first], row["Metric"]) for row in table.rows}
        tasks = {t: v for t, v in results[key].items() if key == "groups" or t != "toy_group"}
        for task, values in tasks.items():
            names = {k.partition(",")[0] for k in values if "_stderr" not in k and is_ours(k)}
            assert {"layers_used", "flops_saved"} <= names
            assert {(task, one) for one in names} <= rows


@pytest.mark.parametrize("how", HOW[1:])
def test_samples_in_the_sinks_have_our_values(runs: dict[str, Ran], how: str) -> None:
    ran = runs[how]
    tasks = list(ran.results["configs"])
    assert "toy_rolling" in tasks
    for task in tasks:
        samples = ran.samples(task)
        table = ran.sinks.wandb.tables[f"{task}_eval_results"].rows
        traces = [t for t in ran.sinks.trackio.traces if t["metadata"]["task"] == task]
        uploaded = _dataset(ran, f"samples_{task}_20").to_list()
        for sample, row, trace, line in zip(samples, table, traces, uploaded, strict=True):
            bare = {name.partition(",")[0] for name in sample}
            assert bool(bare & set(HIGHER_IS_BETTER)) == (sample["filter"] in ("none", "clean"))
            for key in filter(is_ours, {*samples[0], *sample}):
                value = sample.get(key)
                assert trace["metadata"].get(key) == value
                assert close(line[key], value)
                metric = key.removeprefix("full_depth_")
                if metric in ("word_perplexity", "bits_per_byte"):
                    unit = {"word_perplexity": "words", "bits_per_byte": "bytes"}[metric]
                    assert [row[f"{key}_loglikelihood"], row[f"{key}_{unit}"]] == value
                else:
                    assert row[key] == value


def test_the_runs_settings_and_ledger_reach_every_sink(runs: dict[str, Ran]) -> None:
    ran = runs["exit"]
    block = ran.results["config"]["early_exit"]
    assert block["settings"]["threshold"] == 0.3
    for sink in (ran.sinks.wandb, ran.sinks.trackio):
        given = sink.configured["cli_configs"]["early_exit"]
        assert json.loads(json.dumps(given, allow_nan=False)) == block
    artifact = json.loads(ran.sinks.wandb.artifacts["results"])
    assert artifact["config"]["early_exit"] == block
    uploaded = _dataset(ran, "results_20")[0]
    assert uploaded["config"]["early_exit"]["settings"]["threshold"] == 0.3


def test_the_hub_gets_the_very_files_and_a_card_that_shows_our_numbers(
    runs: dict[str, Ran],
) -> None:
    ran = runs["exit"]
    hub, results = ran.sinks.hub, ran.results
    uploaded = {Path(name).name: path.read_bytes() for name, path in hub.files(REPO).items()}
    on_disk = {path.name: path.read_bytes() for path in ran.output.rglob("*.json*")}
    manifests = [name for name in on_disk if name.startswith("manifest_")]
    assert len(manifests) == 1, "which is ours, and stays: lm-eval uploads its own files"
    assert uploaded == {name: text for name, text in on_disk.items() if name not in manifests}
    assert [kind for kind, _ in hub.events] == ["file", *["folder"] * 5, "card"]
    text = hub.cards[REPO]
    shown = json.loads(text.rpartition("```python")[2].partition("```")[0])
    for task in ("toy_mc", "toy_group"):
        assert shown[task]["layers_used,none"] == results["results"][task]["layers_used,none"]


def test_other_models_tables_stay_as_they_are(runs: dict[str, Ran]) -> None:
    for table in runs["hf"].sinks.wandb.tables.values():
        assert not any(map(is_ours, table.columns))


def _dataset(ran: Ran, start: str) -> Any:
    """An uploaded file as the hub's viewer reads it."""
    files = ran.sinks.hub.files(REPO)
    (file,) = (str(path) for path in files.values() if path.name.startswith(start))
    return load_dataset("json", data_files=file, split="train")


@pytest.fixture
def default(tmp_path: Path) -> Iterator[str]:
    """A checkpoint that the model takes by itself, as it takes the paper's."""
    checkpoint = str(save_checkpoint(tmp_path / "own" / "checkpoint", "mistral"))
    with pytest.MonkeyPatch.context() as patch:
        known = replace(DynamaxMistral.ARCHITECTURE, default=checkpoint)
        patch.setattr(DynamaxMistral, "ARCHITECTURE", known)
        yield checkpoint


@pytest.mark.parametrize("model_args", ["dtype=float32", {"dtype": "float32"}, None])
def test_results_of_the_default_checkpoint_are_named_after_it(
    default: str, model_args: Any, tmp_path: Path
) -> None:
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    results = simple_evaluate(
        model="dynamax-mistral",
        model_args=model_args,
        tasks=["toy_mc"],
        task_manager=TaskManager(include_path=TOYS, include_defaults=False),
        limit=1,
        device="cpu",
        evaluation_tracker=tracker,
    )
    tracker.save_results_aggregated(results=results)
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name == default.replace("/", "__")
    (file,) = folder.glob("results_*.json")
    assert json.loads(file.read_text())["model_name"] == default
