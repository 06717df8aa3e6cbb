"""Every result says for which of its tasks the heads' certificate speaks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from toy_model import LAYERS, ToyExits

from dynamax_lm.harness.install import announce
from dynamax_lm.harness.run_registry import LiveModel, run_of
from dynamax_lm.harness.setup import setting_from
from tests.certify.certificates import make_certificate, make_task

Evaluate = Callable[..., dict[str, Any]]

SETTINGS: dict[str, Any] = {
    "model": "dynamax-mamba",
    "pretrained": "toy",
    "weights": "0a0b",
    "checkpoint": {"config": "0c0d"},
    "dtype": "torch.float32",
    "exit_layers": [4, 8],
    "confidence": "head",
    "threshold": 0.9,
    "skipped_state": "propagate",
    "mode": "exit",
    "heads_fingerprint": "ab12",
}


def certificate_for(evaluate: Evaluate, task: str) -> dict[str, Any]:
    """A certificate that was made with exactly this run of one task."""
    model = certified_model(make_certificate().to_json())
    evaluate(task, model=model)
    run = run_of(model)
    assert run is not None
    certified = make_task(setup=run.setups[task])
    certificate = make_certificate(task=certified, setting=setting_from(SETTINGS))
    return certificate.to_json()


def certified_model(certificate: dict[str, Any] | None, **changes: Any) -> ToyExits:
    model = ToyExits()
    live = LiveModel(model.fingerprint, SETTINGS | changes, LAYERS, certificate=certificate)
    model.early_exit_run = announce(model, live)
    return model


def labels(results: dict[str, Any]) -> dict[str, Any]:
    shown = results["config"]["early_exit"]["certificate"]
    assert json.loads(json.dumps(shown)) == shown
    return dict(shown["applies"])


def test_the_certified_task_is_and_another_is_not(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = certificate_for(evaluate, "toy_gen")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        results = evaluate("toy_gen", "toy_mc", model=certified_model(certificate))
    applies = labels(results)
    assert applies["toy_gen"] == {"certified": True, "reason": None}
    assert not applies["toy_mc"]["certified"]
    assert applies["toy_mc"]["reason"].startswith("not certified here: ")
    shown = results["config"]["early_exit"]["certificate"]
    assert {name: shown[name] for name in certificate} == certificate
    assert shown["setups"]["toy_gen"] == certificate["tasks"][0]["setup"]
    lines = [r.getMessage() for r in caplog.records if "not certified here" in r.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("toy_mc: ")


@pytest.mark.parametrize("changes", [{"mode": "full"}, {"exit_rule": "fixed_depth"}])
def test_full_depth_and_fixed_depths_are_not_warned_of(
    evaluate: Evaluate, caplog: pytest.LogCaptureFixture, changes: dict[str, str]
) -> None:
    """They have no threshold that a certificate could be for; the results say so all the same."""
    certificate = certificate_for(evaluate, "toy_gen")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        results = evaluate("toy_gen", model=certified_model(certificate, **changes))
    assert not labels(results)["toy_gen"]["certified"]
    assert not any("not certified here" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("changes", "options", "named"),
    [
        ({"threshold": 0.8}, {}, "threshold"),
        ({"heads_fingerprint": "cd34"}, {}, "heads"),
        ({"weights": "other"}, {}, "weights"),
        ({"checkpoint": {"config": "other"}}, {}, "configuration is not"),
        ({"arguments": {"add_bos_token": "True"}}, {}, "add_bos_token is True"),
        ({"skipped_state": "freeze"}, {}, "skipped_state"),
        ({"prompt_exit": 4}, {}, "prompt_exit is 4"),
        ({"mode": "full", "exit_layers": []}, {}, "mode"),
        ({}, {"num_fewshot": 2}, "num_fewshot"),
        ({}, {"gen_kwargs": {"max_gen_toks": 5}}, "generation_kwargs"),
        ({}, {"system_instruction": "Answer."}, "system_instruction"),
    ],
)
def test_another_setting_is_not(
    evaluate: Evaluate, changes: dict[str, Any], options: dict[str, Any], named: str
) -> None:
    model = certified_model(certificate_for(evaluate, "toy_gen"), **changes)
    label = labels(evaluate("toy_gen", model=model, **options))["toy_gen"]
    assert not label["certified"]
    assert named in label["reason"]


def test_a_certificate_that_cannot_be_read_speaks_for_nothing(evaluate: Evaluate) -> None:
    model = certified_model({"threshold": 0.9})
    label = labels(evaluate("toy_gen", model=model))["toy_gen"]
    assert not label["certified"]
    assert "schema" in label["reason"]


def test_without_one_there_is_none(evaluate: Evaluate) -> None:
    results = evaluate("toy_gen", model=certified_model(None))
    assert results["config"]["early_exit"]["certificate"] is None
