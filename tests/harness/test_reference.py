"""``full_depth_<metric>``: the task's own scoring of the full-depth answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lm_eval.api import metrics
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from toy_model import ToyExits

Evaluate = Callable[..., dict[str, Any]]

TASKS = (
    "toy_gen",
    "toy_mc",
    "toy_mutual",
    "toy_ll",
    "toy_rolling",
    "toy_bleu",
    "toy_repeats",
    "toy_mutating",
    "toy_class",
)


class FullDepth(ToyExits):
    """Answers what the exits' records say full depth would."""

    def _answer(self, kind: Any, value: Any, traces: Any, full: Any, rng: Any) -> Any:
        super()._answer(kind, value, traces, full, rng)
        return full


@pytest.mark.parametrize("task", TASKS)
def test_it_is_what_the_full_depth_model_would_score(evaluate: Evaluate, task: str) -> None:
    """With the same standard error, bootstrapped ones included."""
    model: LM = FullDepth()
    full = evaluate(task, model=model, bootstrap_iters=200)["results"][task]
    exits = evaluate(task, bootstrap_iters=200)["results"][task]
    first = next(key.partition(",")[2] for key in exits if key.startswith("layers_used,"))
    compared = 0
    for key, value in full.items():
        if key.endswith(f",{first}"):
            assert exits[f"full_depth_{key}"] == value
            compared += 1
    assert compared >= 2


def test_the_corpus_metric_is_not_trivial(evaluate: Evaluate) -> None:
    table = evaluate("toy_bleu", bootstrap_iters=20)["results"]["toy_bleu"]
    assert 0 < table["bleu,none"] < table["full_depth_bleu,none"]
    assert table["full_depth_bleu_stderr,none"] > 0


def test_expensive_corpus_metrics_are_bootstrapped_as_rarely_as_the_originals(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def count(function: Any, items: Any, iters: int) -> float:
        asked.append(iters)
        return 0.0

    monkeypatch.setattr(metrics, "bootstrap_stderr", count)
    evaluate("toy_bleu", bootstrap_iters=100_000)
    assert asked == [100, 100]


def test_scoring_that_changes_its_document_still_sees_it_whole(evaluate: Evaluate) -> None:
    results = evaluate("toy_mutating")
    right = {s["doc_id"]: s["exact_match"] for s in results["samples"]["toy_mutating"]}
    assert sum(right.values()) > 0


def test_scoring_that_executes_code_is_never_run_on_the_reference(evaluate: Evaluate) -> None:
    results = evaluate("toy_code", confirm_run_unsafe_code=True)
    table = results["results"]["toy_code"]
    assert table["passed,none"] == 1.0
    assert "layers_used,none" in table
    assert not any(key.startswith("full_depth") for key in table)
    skipped = results["config"]["early_exit"]["skipped"]["toy_code"]
    assert skipped == {"full_depth_*": "scoring executes code"}


def test_scoring_that_fails_on_the_reference_is_named(evaluate: Evaluate) -> None:
    results = evaluate("toy_fails")
    assert results["results"]["toy_fails"]["exact_match,none"] == 1.0
    note = results["config"]["early_exit"]["skipped"]["toy_fails"]["full_depth_*"]
    assert note == "scoring fails on document 0: TypeError: plain text is beyond me"


def test_documents_may_have_different_metrics(evaluate: Evaluate) -> None:
    table = evaluate("toy_partial")["results"]["toy_partial"]
    assert table["full_depth_exact_match,none"] == 1.0
    assert table["full_depth_other,none"] == 0.5


def test_scoring_twice_leaves_random_numbers_alone() -> None:
    import random

    import numpy as np

    from dynamax_lm.harness.reference import _random_state_kept

    random.seed(1), np.random.seed(1)
    expected = random.random(), float(np.random.rand())
    random.seed(1), np.random.seed(1)
    with _random_state_kept():
        random.random(), np.random.rand()
    assert (random.random(), float(np.random.rand())) == expected


def test_scoring_is_not_repeated_where_the_run_answers_as_full_depth_does(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[Any] = []
    original = ConfigurableTask.process_results

    def count(task: Any, doc: Any, results: Any) -> Any:
        scored.append(str(results))
        return original(task, doc, results)

    monkeypatch.setattr(ConfigurableTask, "process_results", count)
    for model, repeated in ((FullDepth(), False), (ToyExits(), True)):
        scored.clear()
        samples = evaluate("toy_gen", model=model)["samples"]["toy_gen"]
        assert len(scored) > len(samples) if repeated else len(scored) == len(samples)
        differing = len(scored) - len(samples)
        assert differing < len(samples), "some answers are full depth's"
