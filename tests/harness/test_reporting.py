"""The keys that every task gains: their values, their standard errors, and where they appear."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.loggers import EvaluationTracker
from lm_eval.utils import make_table
from toy_model import LAYERS, ToyExits, ToyPlain

from dynamax_lm.common.errors import SettingError

Evaluate = Callable[..., dict[str, Any]]

ALL = ("toy_gen", "toy_mc", "toy_mutual", "toy_ll", "toy_rolling", "toy_bleu", "toy_repeats")
KEYS = {"layers_used", "flops_saved", "flops_saved_total", "agreement", "consistency"}
WITH_STOP = {"layers_used_with_stop", "flops_saved_with_stop", "agreement_with_stop", "stop_share"}
GENERATED = {"toy_gen", "toy_bleu", "toy_repeats"}


@pytest.fixture(scope="module")
def results(evaluate: Evaluate) -> dict[str, Any]:
    return evaluate(*ALL)


def first_filter(results: dict[str, Any], task: str) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = results["samples"][task]
    return [s for s in samples if s["filter"] == samples[0]["filter"]]


@pytest.mark.parametrize("task", ALL)
def test_a_document_averages_over_the_tokens_of_its_text_and_again_over_all(
    results: dict[str, Any], task: str
) -> None:
    stops = 0
    for sample in first_filter(results, task):
        records = [answer.record for request in sample["resps"] for answer in request]
        traces = [trace for record in records for trace in record.traces]
        for key, ends, bills in (
            ("", [t.text_tokens for t in traces], [r.billed_text for r in records]),
            ("_with_stop", [None for _ in traces], [r.bill for r in records]),
        ):
            if key and task not in GENERATED:
                assert not WITH_STOP & set(sample)
                continue
            pairs = list(zip(traces, ends, strict=True))
            layers = [used for trace, end in pairs for used in trace.layers_used[:end]]
            assert sample[f"layers_used{key}"] == pytest.approx(sum(layers) / len(layers))
            same = [
                int(a == b)
                for t, end in pairs
                for a, b in list(zip(t.emitted, t.full_depth, strict=True))[:end]
            ]
            assert sample[f"agreement{key}"] == pytest.approx(sum(same) / len(same))
            spent = sum(b.layers + b.checks + b.projection + b.propagation for b in bills)
            full = sum(b.full_depth for b in bills)
            assert sample[f"flops_saved{key}"] == pytest.approx(1 - spent / full)
            if not key:
                prompt = sum(b.prompt for b in bills)
                total = 1 - (prompt + spent) / (prompt + full)
                assert sample["flops_saved_total"] == pytest.approx(total)
        if task in GENERATED:
            tokens = sum(map(len, traces))
            stop = tokens - sum(trace.text_tokens for trace in traces)
            assert sample["stop_share"] == pytest.approx(stop / tokens)
            stops += stop
    assert (stops > 0) == (task in GENERATED)


def test_noise_is_shown_for_tasks_that_have_it(evaluate: Evaluate) -> None:
    loud = evaluate("toy_gen", "toy_mc", model=ToyExits(noise=0.7))
    for task in ("toy_gen", "toy_mc"):
        samples = first_filter(loud, task)
        name = samples[0]["filter"]
        rates = []
        for sample in samples:
            records = [answer.record for request in sample["resps"] for answer in request]
            again = [row for r in records for t in r.traces for row in t.rows()]
            differs = [a.reference_pass != a.full_depth for a in again if a.layers_used == LAYERS]
            if differs:
                assert sample["agreement_noise"] == sum(differs) / len(differs)
                rates.append(sample["agreement_noise"])
            else:
                assert "agreement_noise" not in sample
        shown = loud["results"][task][f"agreement_noise,{name}"]
        assert shown == pytest.approx(statistics.mean(rates))
        assert shown > 0
        pooled = loud["config"]["early_exit"]["tasks"][task]["agreement_noise"]
        assert pooled["rate"] == pooled["differing"] / pooled["compared"] > 0
    assert "|agreement_noise" in make_table(loud)


def test_noise_that_is_measured_as_none_is_not_shown(evaluate: Evaluate) -> None:
    quiet = evaluate("toy_gen", model=ToyExits(noise=1e-12))
    assert not [key for key in quiet["results"]["toy_gen"] if key.startswith("agreement_noise")]
    block = quiet["config"]["early_exit"]
    assert block["agreement_noise"]["compared"] > 0
    assert block["agreement_noise"]["rate"] == 0
    assert "toy_gen" not in block["skipped"]


@pytest.mark.parametrize("task", ALL)
def test_the_table_has_the_mean_and_its_standard_error(results: dict[str, Any], task: str) -> None:
    samples = first_filter(results, task)
    name = samples[0]["filter"]
    for key in KEYS - ({"consistency"} if task == "toy_rolling" else set()):
        values = [sample[key] for sample in samples]
        error = statistics.stdev(values) / len(values) ** 0.5
        assert results["results"][task][f"{key},{name}"] == pytest.approx(statistics.mean(values))
        assert results["results"][task][f"{key}_stderr,{name}"] == pytest.approx(error)
    assert results["higher_is_better"][task]["layers_used"] is False
    assert results["higher_is_better"][task]["flops_saved"] is True


def test_generations_are_consistent_where_their_text_is_full_depths(
    results: dict[str, Any],
) -> None:
    for task in ("toy_gen", "toy_repeats", "toy_bleu"):
        for sample in first_filter(results, task):
            (answers,) = sample["resps"]
            same = [str(answer) == answer.record.reference for answer in answers]
            assert sample["consistency"] == pytest.approx(sum(same) / len(same))


def test_options_are_consistent_where_the_same_one_wins(results: dict[str, Any]) -> None:
    for task in ("toy_mc", "toy_mutual"):
        for sample in first_filter(results, task):
            options = [request[0] for request in sample["resps"]][:3]
            ours = [option[0] for option in options]
            full = [option.record.reference[0] for option in options]
            same = ours.index(max(ours)) == full.index(max(full))
            assert sample["consistency"] == float(same)
    assert len(results["samples"]["toy_mutual"][0]["resps"]) == 6


def test_options_without_any_question_are_still_options(evaluate: Evaluate) -> None:
    """Blimp's pairs look like mutual information's second half: their context is empty."""
    told_apart = 0
    for threshold in (0.0, 0.5, 0.9):
        results = evaluate("toy_bare", model=ToyExits(threshold=threshold))
        for sample in results["samples"]["toy_bare"]:
            options = [request[0] for request in sample["resps"]]
            ours = [option[0] for option in options]
            full = [option.record.reference[0] for option in options]
            same = ours.index(max(ours)) == full.index(max(full))
            assert len(options) == 2
            assert sample["consistency"] == float(same)
            told_apart += same != (options[0][1] == options[0].record.reference[1])
    assert told_apart, "taking the first option for the only answer must give another number"


def test_a_single_likelihood_is_consistent_where_both_or_neither_are_greedy(
    results: dict[str, Any],
) -> None:
    for sample in first_filter(results, "toy_ll"):
        answer = sample["resps"][0][0]
        assert sample["consistency"] == float(answer[1] == answer.record.reference[1])


def test_a_rolling_likelihood_has_no_consistency(results: dict[str, Any]) -> None:
    assert "consistency,none" not in results["results"]["toy_rolling"]


def test_depths_are_reported_once_and_full_depths_metrics_under_every_filter(
    results: dict[str, Any],
) -> None:
    table = results["results"]["toy_gen"]
    assert "layers_used,clean" in table
    assert {key for key in table if key.endswith(",raw")} == {
        "exact_match,raw",
        "exact_match_stderr,raw",
        "full_depth_exact_match,raw",
        "full_depth_exact_match_stderr,raw",
    }
    second = [s for s in results["samples"]["toy_gen"] if s["filter"] == "raw"]
    assert not KEYS & set(second[0])
    for sample in second:
        (answers,) = sample["resps"]
        right = answers[0].record.reference == sample["target"]  # not stripped
        assert sample["full_depth_exact_match"] == float(right)


def test_every_key_is_a_row_of_the_printed_table(results: dict[str, Any]) -> None:
    table = make_table(results)
    for row in ("|layers_used", "|flops_saved ", "|full_depth_exact_match", "|consistency"):
        assert row in table
    depth = results["results"]["toy_mc"]["layers_used,none"]
    assert f"{depth:.4f}" in table


def test_the_files_have_the_keys(evaluate: Evaluate, tmp_path: Path) -> None:
    tracker = EvaluationTracker(output_path=str(tmp_path))
    results = evaluate("toy_mc", evaluation_tracker=tracker)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    tracker.save_results_samples("toy_mc", samples["toy_mc"])
    (table,) = tmp_path.rglob("results_*.json")
    (lines,) = tmp_path.rglob("samples_*.jsonl")
    written = json.loads(table.read_text())
    assert {key.partition(",")[0] for key in written["results"]["toy_mc"]} >= KEYS
    assert written["config"]["early_exit"]["tokens"] > 0
    for line in lines.read_text().splitlines():
        assert KEYS | {"full_depth_acc"} <= set(json.loads(line))


def test_a_limit_counts_what_it_lets_through(evaluate: Evaluate) -> None:
    results = evaluate("toy_mc", limit=3)
    assert results["n-samples"]["toy_mc"]["effective"] == 3
    assert results["config"]["early_exit"]["documents"] == 3
    assert "layers_used_stderr,none" in results["results"]["toy_mc"]


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    ("processes", "words"), [(1, "no documents to evaluate"), (3, "2 documents for 3 processes")]
)
def test_fewer_documents_than_processes_are_refused_by_every_process(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, processes: int, words: str, rank: int
) -> None:
    """lm-eval ends the process that has none with a traceback, and the others wait for it."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("RANK", str(rank % processes))
    with pytest.raises(SettingError, match=f"^toy_mc: .*{words}"):
        evaluate("toy_mc", limit=processes - 1)


def test_another_models_run_without_documents_is_lm_evals_matter(evaluate: Evaluate) -> None:
    with pytest.raises(ValueError, match="did not find any docs") as caught:
        evaluate("toy_mc", model=ToyPlain(), limit=0)
    assert not isinstance(caught.value, SettingError)


def test_without_samples_the_numbers_are_the_same(
    evaluate: Evaluate, results: dict[str, Any]
) -> None:
    bare = evaluate("toy_mc", log_samples=False)
    assert bare["results"]["toy_mc"] == results["results"]["toy_mc"]
    assert "samples" not in bare


@pytest.mark.parametrize("task", ALL)
def test_output_only_runs_still_report_what_needs_no_metric(evaluate: Evaluate, task: str) -> None:
    results = evaluate(task, predict_only=True)
    keys = {key.partition(",")[0] for key in results["results"][task]}
    assert keys >= KEYS - {"consistency"}
    assert not any(key.startswith("full_depth") for key in keys)
    note = results["config"]["early_exit"]["skipped"][task]["full_depth_*"]
    assert "predict_only" in note


def test_without_a_reference_nothing_is_compared(evaluate: Evaluate) -> None:
    results = evaluate("toy_gen", model=ToyExits(reference=False))
    keys = {key.partition(",")[0] for key in results["results"]["toy_gen"]}
    assert {"layers_used", "flops_saved", "flops_saved_total"} <= keys
    assert not {"agreement", "consistency", "full_depth_exact_match"} & keys
    assert "no full-depth reference" in str(results["config"]["early_exit"]["skipped"])


def test_another_models_run_is_left_as_it_was(evaluate: Evaluate) -> None:
    exits, plain = evaluate(*ALL), evaluate(*ALL, model=ToyPlain())
    for task in ALL:
        own = plain["results"][task]
        assert not any("layers" in key or "depth" in key for key in own)
        for key in own:
            if key != "alias":
                wanted = own[key]
                if isinstance(wanted, float):  # some libraries' sums differ in their last bit
                    wanted = pytest.approx(wanted, rel=1e-12, nan_ok=True)
                assert exits["results"][task][key] == wanted, (task, key)
    assert "early_exit" not in plain["config"]
    assert set(plain["higher_is_better"]["toy_mc"]) == {"acc"}


def test_a_task_object_may_serve_one_model_after_another(evaluate: Evaluate) -> None:
    from lm_eval.evaluator import evaluate as evaluate_tasks
    from lm_eval.tasks import TaskManager

    toys = Path(__file__).parent / "toys"
    loaded = TaskManager(include_path=str(toys), include_defaults=False).load(["toy_mc"])
    loaded["tasks"]["toy_mc"].set_config("num_fewshot", 0)
    exits = ToyExits()
    seen = [
        set(evaluate_tasks(lm=lm, task_dict=loaded, bootstrap_iters=0)["results"]["toy_mc"])
        for lm in (exits, ToyPlain(), exits)
    ]
    assert seen[0] == seen[2] > seen[1]
    assert exits.get_model_info()["early_exit"]["documents"] == 7


def test_answers_of_a_model_that_is_not_running_are_refused(evaluate: Evaluate) -> None:
    model = ToyExits()
    model.fingerprint = "changed without telling"
    with pytest.raises(SettingError, match="--use_cache"):
        evaluate("toy_mc", model=model)


@pytest.mark.parametrize("predict_only", [False, True])
def test_a_task_class_may_mix_kinds_of_requests(evaluate: Evaluate, predict_only: bool) -> None:
    results = evaluate("toy_class", predict_only=predict_only)
    for sample in results["samples"]["toy_class"]:
        text, score = (request[0] for request in sample["resps"])
        same = text == text.record.reference and score[1] == score.record.reference[1]
        assert sample["consistency"] == float(same)
    table = results["results"]["toy_class"]
    assert table["layers_used_stderr,none"] > 0
    assert ("full_depth_surprise,none" in table) is not predict_only
    assert ("surprise,none" in table) is not predict_only


def test_layers_used_lies_within_the_model(results: dict[str, Any]) -> None:
    for task in ALL:
        assert all(1 <= s["layers_used"] <= LAYERS for s in first_filter(results, task))
