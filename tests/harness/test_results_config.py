"""The run-wide block, and the line that a run of low agreement adds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from toy_model import ToyExits

from dynamax_lm.core.totals import RunTotals
from dynamax_lm.core.trace import ExitRecord, FlopsBreakdown
from dynamax_lm.harness.responses import TracedText
from dynamax_lm.harness.results_config import early_exit_block

Evaluate = Callable[..., dict[str, Any]]


def test_the_block_pools_the_tokens_of_all_tasks(evaluate: Evaluate) -> None:
    results = evaluate("toy_gen", "toy_mutual", "toy_rolling")
    block = results["config"]["early_exit"]
    firsts = [
        sample
        for samples in results["samples"].values()
        for sample in samples
        if sample["filter"] == samples[0]["filter"]
    ]
    answers = [a for s in firsts for request in s["resps"] for a in request]
    traces = [trace for answer in answers for trace in answer.record.traces]
    text = [n for trace in traces for n in trace.layers_used[: trace.text_tokens]]
    layers = [n for trace in traces for n in trace.layers_used]
    for part, depths in ((block, text), (block["with_stop"], layers)):
        assert part["tokens"] == len(depths)
        assert part["layers_used"] == pytest.approx(sum(depths) / len(depths))
        assert part["depth_histogram"] == {str(n): depths.count(n) for n in sorted(set(depths))}
        assert part["ledger"]["flops"]["layers"] == 100 * sum(depths)
        shares = part["ledger"]["share_of_full_depth"]
        assert sum(shares.values()) == pytest.approx(1 - part["flops_saved"])
    generated = sum(len(trace) for trace in traces if trace.text_tokens is not None)
    assert block["stop_share"] == pytest.approx((len(layers) - len(text)) / generated)
    assert block["documents"] == 21
    texts = [str(answer).strip() for answer in answers if isinstance(answer, str)]
    assert block["generated_answers"] == len(texts) == 7
    assert block["distinct_answers"] == len(set(texts))
    assert block["empty_answers"] == 0
    assert block["settings"]["threshold"] == 0.9
    assert set(block["tasks"]) == {"toy_gen", "toy_mutual", "toy_rolling"}
    again = RunTotals.from_json(json.loads(json.dumps(block))).total
    assert (again.text.tokens, again.with_stop.tokens) == (len(text), len(layers))


def test_a_model_that_runs_twice_starts_anew(evaluate: Evaluate) -> None:
    model = ToyExits()
    evaluate("toy_gen", "toy_mc", model=model)
    block = evaluate("toy_mc", model=model)["config"]["early_exit"]
    assert set(block["tasks"]) == {"toy_mc"}
    assert block["documents"] == 7


def test_an_unknown_model_has_no_block() -> None:
    assert early_exit_block(object()) == {}


def test_low_agreement_says_so_in_one_line(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    model = ToyExits(likeness=0.5)
    with caplog.at_level(logging.WARNING):
        evaluate("toy_gen", "toy_mc", model=model)
        model.get_model_info()
    (line,) = [r.getMessage() for r in caplog.records if "headroom" in r.getMessage()]
    assert "heads.train" in line
    assert "\n" not in line


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_noise_says_so_in_one_line(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture, noise: float
) -> None:
    model = ToyExits(likeness=1.0, noise=noise)
    with caplog.at_level(logging.INFO):
        block = evaluate("toy_gen", "toy_mc", model=model)["config"]["early_exit"]
        model.get_model_info()
    lines = [r.getMessage() for r in caplog.records if "noise floor" in r.getMessage()]
    assert len(lines) == (noise > 0)
    counted = block["agreement_noise"]
    for line in lines:
        assert f"{counted['differing']} of {counted['compared']} tokens" in line
        assert "\n" not in line


def test_high_agreement_says_nothing(evaluate: Evaluate, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate("toy_gen", model=ToyExits(likeness=1.0))
    assert not [r for r in caplog.records if "headroom" in r.getMessage()]


class Silent(ToyExits):
    """Answers some questions with white space, all others alike."""

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        answers = super().generate_until(requests)
        return [
            TracedText("\n " if number < 3 else "yes", answer.record)
            for number, answer in enumerate(answers)
        ]


def test_empty_and_repeated_answers_are_said_in_a_line_each(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        results = evaluate("toy_gen", "toy_mc", model=Silent())
    lines = [record.getMessage() for record in caplog.records]
    (empty,) = [line for line in lines if "are empty" in line]
    assert "3 of 7 answers are empty (toy_gen 3 of 7)" in empty
    (few,) = [line for line in lines if "distinct" in line]
    assert "toy_gen 2 to 7 questions" in few
    assert not any("\n" in line for line in (empty, few))
    block = results["config"]["early_exit"]
    for part in (block, block["tasks"]["toy_gen"]):
        assert part["generated_answers"] == 7
        assert part["empty_answers"] == 3
        assert part["distinct_answers"] == 2
    assert block["tasks"]["toy_mc"]["generated_answers"] == 0


class Stopping(ToyExits):
    """Stops at once where it is asked the first questions."""

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        return [
            TracedText("", _without_text(answer.record)) if number < 3 else answer
            for number, answer in enumerate(super().generate_until(requests))
        ]


def _without_text(record: ExitRecord) -> ExitRecord:
    traces = tuple(replace(trace, text_tokens=0) for trace in record.traces)
    return replace(record, traces=traces, text_bill=FlopsBreakdown(prompt=record.bill.prompt))


def test_documents_without_text_are_left_out_of_the_means_of_texts(evaluate: Evaluate) -> None:
    results = evaluate("toy_gen", model=Stopping())
    samples = [s for s in results["samples"]["toy_gen"] if s["filter"] == "clean"]
    table = results["results"]["toy_gen"]
    of_text = ("layers_used", "flops_saved", "flops_saved_total", "agreement")
    for key in of_text:
        values = [sample[key] for sample in samples if key in sample]
        assert len(values) == 4
        assert table[f"{key},clean"] == pytest.approx(sum(values) / 4)
    for key in ("layers_used_with_stop", "agreement_with_stop", "consistency"):
        assert sum(key in sample for sample in samples) == 7
    assert [s["stop_share"] for s in samples if "agreement" not in s] == [1.0] * 3
    assert results["n-samples"]["toy_gen"]["effective"] == 7
