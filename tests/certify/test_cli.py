"""The command line, end to end on a random checkpoint, and every wrong option in one line."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from dynamax_lm.common.errors import SettingError
from dynamax_lm.engine.sources import ComputedInOrder
from dynamax_lm.models import answering
from dynamax_lm.models.lm import DynamaxMamba
from dynamax_lm.models.runner import EngineRunner
from tests.certify.command import DOCUMENTS, Run, no_model, sums, task_over, write, written

pytestmark = pytest.mark.usefixtures("toys_alone")


def test_the_next_command_makes_the_same_requests(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(num_fewshot=0, system_instruction="Be brief.", thresholds="1")
    (line,) = (
        one for one in capsys.readouterr().out.splitlines() if one.startswith("next: lm_eval ")
    )
    words = shlex.split(line)
    for name, value in (
        ("num_fewshot", "0"),
        ("batch_size", "64"),
        ("system_instruction", "Be brief."),
    ):
        assert words[words.index(f"--{name}") + 1] == value


def test_a_certificate_says_what_a_run_at_its_threshold_shows(
    run: Run, folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = run()
    printed, told = capsys.readouterr()
    assert certificate == written(tmp_path)
    assert told.count(" requests: under a minute") == 1, "before the first threshold, of it alone"
    assert told.count("2 more thresholds, fewer if one fails: ") == 1, "after the second"
    assert certificate.documents == DOCUMENTS
    assert "1 left out: in evaluation samples" in printed
    assert "2 left out: repeats" in printed
    assert "fewer than 29 independent units" in printed
    assert f"in {DOCUMENTS} independent units (no two share a passage)" in printed
    assert certificate.threshold is not None
    assert certificate.grid[-1].p_value > certificate.delta, "random exits do not agree for long"
    for point in certificate.grid:
        assert f"{point.threshold:g}" in printed

    # The same documents, evaluated on their own by a fresh model.
    lm = DynamaxMamba(
        pretrained=str(folder), exit_layers="1+2+3", threshold=0.2, device="cpu", batch_size=64
    )
    records = write(tmp_path / "new.jsonl", sums(DOCUMENTS))
    task = task_over(records)
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
    """That every threshold is really run, whatever the skipped state, is the runner's own test."""
    prefilled: list[int] = []

    class Counted(ComputedInOrder):
        def prompt_state(self, *given: Any) -> Any:
            prefilled.append(1)
            return super().prompt_state(*given)

    monkeypatch.setattr(answering, "ComputedInOrder", Counted)
    options = {"tasks": "toy_mc", "metric": "consistency", "risk": 0.3, "thresholds": "1,0.5"}
    shared = run(**options)
    assert len(shared.grid) == 2
    assert len(prefilled) == -(-2 * DOCUMENTS // 64), "each batch of prompts once"
    monkeypatch.setattr("dynamax_lm.certify.run.ReuseRunner", lambda derives: EngineRunner())
    assert replace(run(**options), date=shared.date) == shared


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
    assert certificate == written(tmp_path)
    assert certificate.tasks[0].method.startswith(method)
    assert metric in certificate.tasks[0].loss
    assert certificate.grid[0].outcomes[0].mean_loss == 0, "nothing leaves at 1"
    assert certificate.threshold is not None


def test_nothing_certifies_and_says_so(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = run(thresholds="0", risk=0.01, delta=0.3)
    assert certificate.threshold is None
    assert written(tmp_path).threshold is None
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
    ({"tasks": "toy_genn"}, "toy_genn"),
    ({"tasks": "toy_gen,toy_mc"}, "--data toy_gen=FILE toy_mc=FILE"),
    ({"tasks": "toy_group"}, "name a task, no group"),
    ({"tasks": ","}, "Tasks not found"),
    ({"data": None}, "7 documents; at least 300"),
    ({"group_by": "topic"}, "group_by=topic"),
    ({"group_by": "gold"}, "form 1 independent units"),
    ({"fewshot_as_multiturn": True}, "apply_chat_template"),
    ({"data": "/no/such/file.jsonl"}, "/no/such/file.jsonl"),
    ({"limit": 299}, "299 documents"),
    ({"limit": 0}, "limit=0"),
    ({"limit": 2.5}, "limit=2.5"),
    ({"limit": float("inf")}, "limit=inf"),
    ({"limit": float("nan")}, "limit=nan"),
    ({"num_fewshot": -1}, "num_fewshot=-1"),
    ({"num_fewshot": 2}, "examples would be documents"),
    ({"thresholds": "0.9,x"}, "0.9,x"),
    ({"thresholds": "0.9,0.9"}, "twice"),
    ({"thresholds": "1.5"}, "1.5"),
    ({"model": "hf"}, "dynamax-mistral"),
    ({"config": "/no/such/file.yaml"}, "/no/such/file.yaml"),
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
    monkeypatch.setattr(DynamaxMamba, "__init__", no_model)
    with pytest.raises(SettingError) as caught:
        run(**options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
