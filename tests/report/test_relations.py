"""Each relation by itself: values that were changed together with everything else that counts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import GENERATION, SCORING, Plan, verified, write_run

from dynamax_lm.common.tracefile import TraceLine
from dynamax_lm.report.checks.likelihoods import check_likelihoods
from dynamax_lm.report.runs import Sample
from dynamax_lm.report.verify import Verification

Change = Callable[[dict[str, Any]], None]


def _change_lines(path: Path, change: Change) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.5, 0.7, 0.9, 0.995])
def test_a_token_leaves_exactly_where_its_confidence_reaches_the_threshold(
    tmp_path: Path, threshold: float
) -> None:
    made = write_run(tmp_path, Plan(threshold=threshold, documents=3))
    assert not verified(made).mismatches
    trace = made.traces / "trace_gen.jsonl"
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    at = float(np.float32(threshold))
    for row in rows:
        row["confidence"] = (
            at if row["layers_used"] < 8 else float(np.nextafter(np.float32(at), np.float32(0)))
        )
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not verified(made).mismatches
    for row in rows:
        row["confidence"] = (
            at if row["layers_used"] == 8 else float(np.nextafter(np.float32(at), np.float32(0)))
        )
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wrong = [line for line in verified(made).mismatches if "under threshold" in line]
    assert len(wrong) == len(rows)


def test_threshold_1_never_leaves_and_0_always_does(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    data = made.data()
    for threshold, word in ((1.0, "never leaves"), (0.0, "under threshold 0")):
        block = data["config"]["early_exit"]
        block["settings"]["threshold"] = block["identity"]["settings"]["threshold"] = threshold
        made.change(data)
        assert [line for line in verified(made).mismatches if word in line]


@pytest.mark.parametrize(
    ("name", "value"),
    [("confidence", None), ("confidence", 1.5), ("confidence", 0.1), ("token", 64)],
)
def test_what_no_row_can_have_is_named(tmp_path: Path, name: str, value: Any) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    trace = made.traces / "trace_gen.jsonl"
    first, *others = trace.read_text().splitlines()
    trace.write_text("\n".join([json.dumps(json.loads(first) | {name: value}), *others]))
    assert [line for line in verified(made).mismatches if "document 0" in line]


def _sure(line: dict[str, Any]) -> None:
    line["resps"] = [[[str(-1e-9), pair[1]]] for (pair,) in line["resps"]]
    line["filtered_resps"] = [answers[0] for answers in line["resps"]]


def test_log_likelihoods_beyond_the_exits_probabilities_are_named(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks={"mc": SCORING}, documents=20))
    assert not verified(made).mismatches
    _change_lines(made.samples["mc"], _sure)
    assert [line for line in verified(made).mismatches if "confidences allow" in line]


@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=6),
    token=st.integers(0, 5),
    measure=st.sampled_from(["top_prob", "margin", "entropy"]),
)
def test_the_bounds_hold_for_every_distribution(
    logits: list[float], token: int, measure: str
) -> None:
    """The scored token's own probability, from the same softmax, always lies inside."""
    values = np.array(logits)
    shares = np.exp(values - values.max())
    shares /= shares.sum()
    token, best = token % len(logits), int(shares.argmax())
    top = np.sort(shares)[::-1]
    sure = {"top_prob": top[0], "margin": top[0] - top[1]}.get(measure, 0.5)
    line = TraceLine("t", 0, 0, 0, 0, 0, token, best, 3, float(np.float32(sure)), None, 1)
    total = str(math.log(max(shares[token], 1e-300)))
    sample = Sample(
        0, "none", ("", "", ""), {}, ("p",), ("c",), (([total, "x"],),), {}, "", ("c",), ()
    )
    found = Verification()
    check_likelihoods("here", sample, [line], measure, 8, found)
    assert found.checked == 1
    assert not found.mismatches


def _accuracy(line: dict[str, Any]) -> None:
    best = max(range(3), key=lambda index: float(line["filtered_resps"][index][0]))
    right = float(str(best) == line["target"])
    line |= {"acc": right, "em": right, "full_depth_em": right}
    line["metrics"].append("acc")


def test_accuracy_follows_from_log_likelihoods_without_the_tasks_code(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks={"mc": SCORING}))
    data = made.data()
    data["configs"]["mc"]["output_type"] = "multiple_choice"
    made.change(data)

    def asked(line: dict[str, Any]) -> None:
        line["target"] = "1"
        for number, request in enumerate(line["arguments"].values()):
            request["arg_1"] = f" option {number}"
        _accuracy(line)

    _change_lines(made.samples["mc"], asked)
    assert not [line for line in verified(made).mismatches if line.endswith("acc")]
    _change_lines(made.samples["mc"], lambda line: line.update(acc=1.0 - line["acc"]))
    wrong = [line for line in verified(made).mismatches if " acc: published" in line]
    assert len(wrong) == 5


@pytest.mark.parametrize("name", ["doc", "target", "doc_hash", "prompt_hash", "target_hash"])
def test_hashes_bind_documents_prompts_and_targets(tmp_path: Path, name: str) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    _change_lines(made.samples["gen"], lambda line: line.update({name: "another"}))
    wrong = [line for line in verified(made).mismatches if "_hash" in line]
    assert len(wrong) >= 5


def _renamed(block: dict[str, Any]) -> None:
    block["settings"]["pretrained"] = "org/other"


def _renamed_twice(block: dict[str, Any]) -> None:
    _renamed(block)
    block["identity"]["pretrained"] = "org/other"


def _other_print(block: dict[str, Any]) -> None:
    block["fingerprint"] = "0" * 16


def _other_words(block: dict[str, Any]) -> None:
    block["convention"] += " Layers count twice."


@pytest.mark.parametrize("change", [_renamed, _renamed_twice, _other_print, _other_words])
def test_the_settings_are_those_of_the_fingerprint(tmp_path: Path, change: Change) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    data = made.data()
    change(data["config"]["early_exit"])
    made.change(data)
    assert verified(made).mismatches


def test_a_setting_is_what_the_arguments_asked_for(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    asked = {"threshold": 0.5, "exit_layers": "3+5", "confidence": "top_prob", "revision": "main"}
    data = made.data()
    data["config"]["model_args"] |= asked
    made.change(data)
    mismatches = verified(made).mismatches
    assert not mismatches
    for name, value in {"threshold": 0.6, "exit_layers": "3", "confidence": "margin"}.items():
        data["config"]["model_args"] |= asked | {name: value}
        made.change(data)
        assert [line for line in verified(made).mismatches if f"settings {name}" in line]
