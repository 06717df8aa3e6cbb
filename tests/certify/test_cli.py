"""The command line, end to end on a random checkpoint, and every wrong option in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM

from dynamax_lm.certificate import Certificate
from dynamax_lm.certify import losses
from dynamax_lm.certify.cli import main
from dynamax_lm.certify.contents import read_records
from dynamax_lm.engine import memory
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.errors import SettingError
from dynamax_lm.heads import read_config
from dynamax_lm.models.lm import DynamaxMamba
from dynamax_lm.plugin.bridge import TASKS
from tests.checkpoints import save_checkpoint
from tests.heads.builders import heads_of

TOYS = str(Path(__file__).parent.parent / "harness" / "toys")
DOCUMENTS = 300


@pytest.fixture(autouse=True, scope="module")
def _fast() -> Iterator[None]:
    """No look at the machine, and no index of all stock tasks, which takes seconds a time."""
    manager = TaskManager(include_path=TOYS, include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.tasks.TaskManager", _once(manager))
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        patch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)
        yield


def _once(manager: TaskManager) -> Callable[..., TaskManager]:
    def make(include_path: str | None = None, include_defaults: bool = True) -> TaskManager:
        return manager if include_defaults else TaskManager(None, include_path, False)

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mamba2"), "mamba2")


def sums(count: int) -> list[dict[str, Any]]:
    """Toy records in the toy tasks' columns."""
    return [
        {"question": f"{n}+{n % 7}", "answer": str(n), "choices": [str(n), "no"], "gold": 0}
        for n in range(count)
    ]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough new documents, repeats of two, and one that the samples evaluate on."""
    sample = next(read_records(TASKS / "triviaqa" / "sample.jsonl"))
    stranger = {"question": sample["question"], "answer": "x", "choices": ["x", "y"], "gold": 0}
    records = sums(DOCUMENTS)
    mixed = [stranger, *records[:2], *records]
    return write(tmp_path_factory.mktemp("data") / "sums.jsonl", mixed)


Run = Callable[..., Certificate]


@pytest.fixture
def run(folder: Path, data: Path, tmp_path: Path) -> Run:
    """``run(task=..., **options)``: the command with good options, some of them changed."""

    def call(**options: Any) -> Certificate:
        defaults: dict[str, Any] = {
            "model": "dynamax-mamba",
            "model_args": f"pretrained={folder},exit_layers=1+2+3,dtype=float32",
            "tasks": "toy_gen",
            "data": data,
            "include_path": TOYS,
            "gen_kwargs": "max_gen_toks=3",
            "num_fewshot": 0,
            "batch_size": 64,
            "device": "cpu",
            "thresholds": "1,0.9,0.2,0",
            "risk": 0.1,
            "output_path": tmp_path / "out",
        }
        given = {name: value for name, value in (defaults | options).items() if value is not None}
        return main([part for name, value in given.items() for part in (f"--{name}", str(value))])

    return call


def _written(tmp_path: Path) -> Certificate:
    (path,) = tmp_path.glob("out/*/certificate.json")
    return Certificate.loads(path.read_text())


def test_a_certificate_says_what_a_run_at_its_threshold_shows(
    run: Run, folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = run()
    printed = capsys.readouterr().out
    assert certificate == _written(tmp_path)
    assert certificate.documents == DOCUMENTS
    assert "1 left out: in evaluation samples" in printed
    assert "2 left out: repeats" in printed
    assert "fewer than 29 documents" in printed
    assert certificate.threshold is not None
    assert certificate.grid[-1].p_value > certificate.delta, "random exits do not agree for long"
    for point in certificate.grid:
        assert f"{point.threshold:g}" in printed

    # The same documents, evaluated on their own by a fresh model.
    lm = DynamaxMamba(
        pretrained=str(folder), exit_layers="1+2+3", threshold=0.2, device="cpu", batch_size=64
    )
    records = write(tmp_path / "new.jsonl", sums(DOCUMENTS))
    task = load_over(records)
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=[task],
        gen_kwargs={"max_gen_toks": 3},
        num_fewshot=0,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    values = results["results"]["toy_gen"]
    (outcome,) = next(p for p in certificate.grid if p.threshold == 0.2).outcomes
    assert outcome.mean_loss == pytest.approx(1 - values["agreement,clean"], abs=1e-6)
    assert outcome.flops_saved == pytest.approx(values["flops_saved,clean"], abs=1e-6)


def test_shared_prompts_and_reference_change_nothing_of_a_certificate(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That every threshold is really run, whatever the skipped state, is the memory's own test."""
    prefilled: list[int] = []
    monkeypatch.setattr(memory, "prefill", lambda *a: prefilled.append(1) or prefill(*a))
    options = {"tasks": "toy_mc", "metric": "consistency", "risk": 0.3, "thresholds": "1,0.5"}
    shared = run(**options)
    assert len(shared.grid) == 2
    assert len(prefilled) == -(-2 * DOCUMENTS // 64), "each batch of prompts once"
    monkeypatch.setattr("dynamax_lm.certify.run.Memory", lambda derives: None)
    assert replace(run(**options), date=shared.date) == shared


def load_over(path: Path) -> Any:
    from dynamax_lm.certify.tasks import load_tasks

    (task,) = load_tasks(["toy_gen"], path, TOYS)
    return task


def test_heads_carry_their_certificate_into_every_result(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Certified on one task, then evaluated on it at ``threshold=certified``, and on another."""
    heads = tmp_path / "heads"
    trained_on = write(tmp_path / "train.jsonl", sums(DOCUMENTS + 9)[DOCUMENTS:])
    model = AutoModelForCausalLM.from_pretrained(folder)
    bank = heads_of(model, (1, 2, 3))
    bank.config = replace(bank.config, data={"name": str(trained_on)})
    bank.save_pretrained(heads)
    before = read_config(heads)

    new = write(tmp_path / "more.jsonl", sums(DOCUMENTS + 9))
    arguments = f"pretrained={folder},heads={heads},dtype=float32"
    certificate = run(model_args=arguments, data=new, thresholds="1,0.999", output_path=None)
    assert "9 left out: in evaluation samples or training data" in capsys.readouterr().out
    assert certificate.threshold is not None
    after = read_config(heads)
    assert Certificate.from_json(after.certificate) == certificate
    assert replace(after, certificate=None) == before
    assert certificate.setting.confidence == "head"
    assert certificate.setting.heads == before.identity

    lm = DynamaxMamba(
        pretrained=str(folder),
        heads=str(heads),
        threshold="certified",
        dtype="float32",
        device="cpu",
        batch_size=64,
    )
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=["toy_gen", "toy_mc"],
        gen_kwargs={"max_gen_toks": 3},
        num_fewshot=0,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=TOYS, include_defaults=False),
    )
    assert lm.settings.threshold == certificate.threshold
    shown = results["config"]["early_exit"]["certificate"]
    assert shown["applies"]["toy_gen"] == {"certified": True, "reason": None}
    assert "the certificate is for toy_gen" in shown["applies"]["toy_mc"]["reason"]


@pytest.mark.parametrize(
    ("task", "metric", "method"),
    [
        ("toy_gen", "consistency", "binomial"),
        ("toy_gen", "exact_match", "betting"),
        ("toy_mc", "acc", "betting"),
    ],
)
def test_other_metrics(run: Run, tmp_path: Path, task: str, metric: str, method: str) -> None:
    certificate = run(tasks=task, metric=metric, thresholds="1,0.5", risk=0.2)
    assert certificate == _written(tmp_path)
    assert certificate.method == method
    assert certificate.grid[0].outcomes[0].mean_loss == 0, "nothing leaves at 1"
    assert certificate.threshold is not None


def test_nothing_certifies_and_says_so(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = run(thresholds="0", risk=0.01, delta=0.3)
    assert certificate.threshold is None
    assert _written(tmp_path).threshold is None
    assert "Nothing certifies" in capsys.readouterr().out


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"risk": 0}, "risk=0"),
    ({"risk": 1}, "risk=1"),
    ({"risk": "nan"}, "risk=nan"),
    ({"delta": 0}, "delta=0"),
    ({"delta": "inf"}, "delta=inf"),
    ({"risk": 0.001}, "cannot certify risk 0.001"),
    ({"metric": "agrement"}, "did you mean agreement"),
    ({"metric": "acc"}, "metric=acc"),
    ({"tasks": "toy_genn"}, "toy_gen"),
    ({"tasks": "toy_gen,toy_mc"}, "name one task"),
    ({"tasks": "toy_group"}, "name one task"),
    ({"tasks": ","}, "none given"),
    ({"data": None}, "7 documents; at least 300"),
    ({"data": "/no/such/file.jsonl"}, "/no/such/file.jsonl"),
    ({"limit": 299}, "299 documents"),
    ({"limit": 0}, "limit=0"),
    ({"limit": 2.5}, "limit=2.5"),
    ({"num_fewshot": -1}, "num_fewshot=-1"),
    ({"num_fewshot": 2}, "examples would be documents"),
    ({"thresholds": "0.9,x"}, "0.9,x"),
    ({"thresholds": "0.9,0.9"}, "twice"),
    ({"thresholds": "1.5"}, "1.5"),
    ({"model": "hf"}, "dynamax-mistral"),
    ({"model_args": "pretrained=tiny,threshold=0.5"}, "--thresholds"),
    ({"model_args": "pretrained=tiny,mode=full"}, "mode=full"),
    ({"model_args": "pretrained=tiny,reference=false"}, "reference=false"),
    ({"model_args": "pretrained=tiny,confidence=oracle"}, "oracle"),
    ({"model_args": "pretrained=tiny,trace_dir=x"}, "trace_dir"),
    ({"output_path": None}, "give --output_path"),
]


@pytest.mark.parametrize(("options", "named"), WRONG, ids=[str(pair[0]) for pair in WRONG])
def test_a_wrong_option_is_one_line_before_weights_load(
    run: Run, options: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DynamaxMamba, "__init__", _no_model)
    with pytest.raises(SettingError) as caught:
        run(**options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def _no_model(self: Any, *args: Any, **kwargs: Any) -> None:
    raise AssertionError("a model was asked for")


@pytest.mark.parametrize(
    "records",
    [
        [{"query": "1+1", "answer": "2"}] * 300,
        [{"question": "1+1"}] * 300,
        [{"question": "1", "answer": 1}, {"question": "2", "answer": "two"}],
    ],
)
def test_wrong_columns_are_named(
    run: Run, tmp_path: Path, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DynamaxMamba, "__init__", _no_model)
    path = write(tmp_path / "odd.jsonl", records)
    with pytest.raises(SettingError, match=r"odd\.jsonl.*columns") as caught:
        run(data=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "said"), [("", True), (",heads=none", False)])
def test_heads_that_run_by_default_are_asked_what_they_were_trained_on(
    run: Run,
    given: str,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(DynamaxMamba, "__init__", _no_model)
    with pytest.raises(AssertionError, match="asked for"):
        run(model_args=f"pretrained=tiny{given}")
    assert ("These heads were trained on" in capsys.readouterr().out) == said


def test_a_failure_midway_leaves_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses.Loss, "of", _interrupt)
    with pytest.raises(SystemExit, match="interrupted"):
        run(thresholds="1")
    assert not [path for path in tmp_path.rglob("*") if "certificate" in path.name]


def _interrupt(self: Any, sample: Any) -> float:
    raise KeyboardInterrupt
