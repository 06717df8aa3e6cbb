"""The stock task files run offline on local records, and our tasks are the stock ones renamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from dynamax_lm.harness.plugin import bridge, task_folder
from dynamax_lm.models.exit_model import DynamaxLM
from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral
from tests.checkpoints import save_checkpoint

STOCK = Path(lm_eval.tasks.__file__).parent
LIMIT = 2
CONTEXT = 192
"""Tokens, here bytes: the longest option fits, and prompts are cut on the left."""
SHORT = 4
"""Tokens of a generated answer: what is compared are prompts, scores and keys, not prose."""

RECORDS = {
    "coqa": ("coqa/default.yaml", "coqa/sample.jsonl"),
    "triviaqa": ("triviaqa/default.yaml", "triviaqa/sample.jsonl"),
    "truthfulqa_gen": ("truthfulqa/truthfulqa_gen.yaml", "truthfulqa/sample_gen.jsonl"),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa/sample_mc.jsonl"),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "truthfulqa/sample_mc.jsonl"),
}
"""Stock task file and local records of each task."""

METRICS = {
    "coqa": {"em", "f1"},
    "triviaqa": {"exact_match"},
    "truthfulqa_gen": {"bleu_max", "bleu_acc", "bleu_diff", "rougeL_max", "rougeL_acc"},
    "truthfulqa_mc1": {"acc"},
    "truthfulqa_mc2": {"acc"},
}
KEYS = {"layers_used", "flops_saved", "flops_saved_total", "agreement", "consistency"}


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """The stock tasks, their data set replaced by local records, and ours beside them."""
    bridge.connect("lm_eval.tasks")
    folder = tmp_path_factory.mktemp("stock")
    for name, (stock, records) in RECORDS.items():
        override: dict[str, Any] = {
            "include": str(STOCK / stock),
            "task": name,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"validation": str(task_folder.TASKS / records)}},
            "training_split": None,
        }
        if name == "triviaqa":  # its examples come from the hub's training split; ours are fixed
            sample = load_yaml(task_folder.TASKS / "triviaqa" / "dynamax_triviaqa_sample.yaml")
            override |= {key: sample[key] for key in ("num_fewshot", "fewshot_config")}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(override))
    return TaskManager(include_path=[folder, task_folder.TASKS], include_defaults=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DynamaxLM]:
    """A random model of each architecture, whose exits leave now and then."""
    common: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 4}
    common |= {"threshold": 0.3, "max_length": CONTEXT}
    folder = tmp_path_factory.mktemp("checkpoints")
    attention = save_checkpoint(folder / "a", "mistral", max_position_embeddings=CONTEXT)
    recurrent = save_checkpoint(folder / "b", "mamba2")
    return {
        "mistral": DynamaxMistral(pretrained=str(attention), **common),
        "mamba2": DynamaxMamba(pretrained=str(recurrent), **common),
    }


@pytest.fixture(autouse=True, scope="module")
def _fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No bootstrap processes, no look at the machine, prepared records in a place of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISABLE_MULTIPROC", "1")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("prepared"))
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        patch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)
        yield


def run(model: DynamaxLM, manager: TaskManager, *tasks: str) -> dict[str, Any]:
    results = simple_evaluate(
        model=model,
        tasks=list(tasks),
        task_manager=manager,
        limit=LIMIT,
        bootstrap_iters=0,
        gen_kwargs={"max_gen_toks": SHORT},
    )
    assert results is not None
    return dict(results)


@pytest.fixture(scope="module")
def stock(models: dict[str, DynamaxLM], manager: TaskManager) -> dict[str, Any]:
    return {kind: run(model, manager, *RECORDS) for kind, model in models.items()}


@pytest.fixture(scope="module")
def samples(models: dict[str, DynamaxLM], manager: TaskManager) -> dict[str, Any]:
    return {kind: run(model, manager, "dynamax_sample") for kind, model in models.items()}


def values(results: dict[str, Any], task: str) -> dict[str, Any]:
    """Scores by metric, whatever the filter is called."""
    return {
        key.partition(",")[0]: value
        for key, value in results["results"][task].items()
        if isinstance(value, (int, float))
    }


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("task", sorted(RECORDS))
def test_the_stock_task_runs_and_gains_our_keys(
    task: str, kind: str, stock: dict[str, Any]
) -> None:
    found = values(stock[kind], task)
    assert METRICS[task] <= set(found)
    assert set(found) >= KEYS
    assert {f"full_depth_{metric}" for metric in METRICS[task]} <= set(found)
    assert 1 <= found["layers_used"] <= 4
    assert len(stock[kind]["samples"][task]) == LIMIT


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("task", sorted(RECORDS))
def test_our_task_is_the_stock_task_on_the_same_records(
    task: str, kind: str, stock: dict[str, Any], samples: dict[str, Any]
) -> None:
    ours, theirs = f"dynamax_{task}_sample", task
    asked = [sample["arguments"] for sample in samples[kind]["samples"][ours]]
    wanted = [sample["arguments"] for sample in stock[kind]["samples"][theirs]]
    assert [prompts(one) for one in asked] == [prompts(one) for one in wanted]
    assert values(samples[kind], ours) == pytest.approx(values(stock[kind], theirs), nan_ok=True)


def prompts(arguments: Any) -> list[Any]:
    """What the model was asked, without generation settings."""
    return [[part for part in one if isinstance(part, str)] for one in arguments]


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_the_group_averages_what_its_tasks_have_in_common(
    kind: str, samples: dict[str, Any]
) -> None:
    group = values(samples[kind], "dynamax_sample")
    for key in ("layers_used", "flops_saved", "agreement"):
        each = [values(samples[kind], f"dynamax_{task}_sample")[key] for task in RECORDS]
        assert group[key] == pytest.approx(sum(each) / len(each)), "the limit makes sizes equal"
    assert "acc" not in group
    assert "em" not in group


@pytest.mark.parametrize("task", sorted(RECORDS))
def test_on_hub_data_ours_differs_from_stock_in_name_alone(task: str) -> None:
    """Which includes that the hub data set, prompts and scores are the stock task's."""
    folder = "truthfulqa" if task.startswith("truthfulqa") else task
    mine = load_yaml(task_folder.TASKS / folder / f"dynamax_{task}.yaml", resolve_func=False)
    theirs = load_yaml(STOCK / RECORDS[task][0], resolve_func=False)
    names = {"task", "tag", "metadata"}
    if task == "coqa":  # functions of our own, compared in test_conversation
        assert theirs["metadata"]["version"] == 3.0
        names |= {"doc_to_text", "doc_to_target", "process_results"}
    if task == "triviaqa":  # the same two filters under lm-eval's usual name
        names.add("filter_list")
        (mine_filter,), (stock_filter,) = mine["filter_list"], theirs["filter_list"]
        assert mine_filter["filter"] == stock_filter["filter"]
    assert {k: v for k, v in mine.items() if k not in names} == {
        k: v for k, v in theirs.items() if k not in names
    }
    assert mine["metadata"]["version"]


def test_every_file_of_ours_loads(manager: TaskManager) -> None:
    files = sorted(task_folder.TASKS.rglob("*.yaml"))
    named = {manager.task_index[name].yaml_path for name in manager.all_tasks if "dynamax" in name}
    assert named == set(files)
    for name in (name for name in manager.all_tasks if name.endswith("_sample")):
        assert manager.load([name])["tasks"]


@pytest.mark.parametrize(
    "file", sorted(task_folder.TASKS.rglob("sample*.jsonl")), ids=lambda p: p.name
)
def test_a_sample_is_what_its_readme_says(file: Path) -> None:
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    readme = (file.parent / "README.md").read_text(encoding="utf-8")
    assert 50 <= len(records) <= 100
    assert f"{len(records)} records" in readme
    assert f"`{file.name}`" in readme
    assert "icence" in readme
    assert len({json.dumps(record) for record in records}) == len(records)
    if file.parent.name == "coqa":
        sources = [record["source"] for record in records]
        assert set(sources) == {"wikipedia", "gutenberg"}, "the only ones that may be passed on"
        assert f"Wikipedia ({sources.count('wikipedia')} here)" in readme
        assert f"Project Gutenberg ({sources.count('gutenberg')} here)" in readme


def test_the_examples_of_a_sample_are_none_of_its_questions() -> None:
    """And come before each question, as stock's do: a list of names gives its first."""
    folder = task_folder.TASKS / "triviaqa"
    examples = load_yaml(folder / "dynamax_triviaqa_sample.yaml")["fewshot_config"]["samples"]
    asked = {json.loads(line)["question"] for line in (folder / "sample.jsonl").open()}
    assert not asked & {example["question"] for example in examples}
    task = TaskManager(include_path=[task_folder.TASKS], include_defaults=False).load(
        ["dynamax_triviaqa_sample"]
    )["tasks"]["dynamax_triviaqa_sample"]
    task.set_fewshot_seed(0)
    (doc, *_) = task.validation_docs()
    prompt = task.fewshot_context(doc, task.config.num_fewshot)
    shots = [f"Question: {e['question']}?\nAnswer: {e['answer']['value']}" for e in examples]
    assert prompt == "\n\n".join([*shots, f"Question: {doc['question']}?\nAnswer:"])


def test_both_truthfulqa_samples_ask_the_same_questions() -> None:
    asked = [
        sorted(
            json.loads(line)["question"]
            for line in (task_folder.TASKS / path).open(encoding="utf-8")
        )
        for path in ("truthfulqa/sample_gen.jsonl", "truthfulqa/sample_mc.jsonl")
    ]
    assert asked[0] == asked[1]
