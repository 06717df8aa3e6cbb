"""The run-wide block, and the line that a run of low agreement adds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from toy_model import ToyExits

from dynamax_lm.harness import early_exit_block
from dynamax_lm.summary import RunTotals

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
    layers = [n for a in answers for t in a.record.traces for n in t.layers_used]
    assert block["tokens"] == len(layers)
    assert block["documents"] == 21
    assert block["layers_used"] == pytest.approx(sum(layers) / len(layers))
    assert block["depth_histogram"] == {str(n): layers.count(n) for n in sorted(set(layers))}
    assert block["ledger"]["flops"]["layers"] == 100 * sum(layers)
    shares = block["ledger"]["share_of_full_depth"]
    assert sum(shares.values()) == pytest.approx(1 - block["flops_saved"])
    assert block["settings"]["threshold"] == 0.9
    assert set(block["tasks"]) == {"toy_gen", "toy_mutual", "toy_rolling"}
    assert RunTotals.from_json(json.loads(json.dumps(block))).total.tokens == len(layers)


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


def test_high_agreement_says_nothing(evaluate: Evaluate, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate("toy_gen", model=ToyExits(likeness=1.0))
    assert not [r for r in caplog.records if "headroom" in r.getMessage()]
