"""CONTRIBUTING's exit rule and skipped state, as somebody who copied them would run them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dynamax_lm.headroom.__main__ import main as headroom
from dynamax_lm.report.__main__ import main as report
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.tables import to_markdown
from dynamax_lm.sweep.__main__ import main as sweep
from tests.examples import blocks, options, verified


def test_a_rule_of_a_file_and_those_of_the_package_are_swept_and_verified(
    here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "my_rules.py:Easing"
    command = ("--tasks", "toy_gen,toy_mc", "--limit", "3", "--thresholds", "0.02,0.05")
    rules = ("--vary", f"exit_rule=threshold,calm_decay,{ours}")
    sweep(options(checkpoint, *command, *rules, trace_dir="traces"))
    found = blocks(here)
    assert len({block["fingerprint"] for block in found.values()}) == 6
    easing = [block for name, block in found.items() if "Easing" in name]
    for block in easing:
        assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", block["settings"]["exit_rule"])
        assert block["layers_used"] == block["layers"], "no answer here has more than 8 tokens"
    verified(capsys)
    lists = ("--tasks", "toy_gen", "--limit", "3", "--vary", "threshold=[0.05,0.02,0.01],[0,1,1]")
    sweep([*options(checkpoint, *lists, trace_dir="more"), "--output_path", "lists"])
    assert report(["lists", "--verify"]) == 0
    fixed = ("--tasks", "toy_gen", "--limit", "3", "--vary", "exit_layers=1,2")
    sweep(
        [
            *options(checkpoint, *fixed, trace_dir="fixed_traces", exit_rule="fixed_depth"),
            *("--output_path", "fixed"),
        ]
    )
    assert report(["fixed", "--verify"]) == 0
    assert "always layer 1" in to_markdown(build(load([here / "fixed"])))


def test_a_skipped_state_of_a_file_is_swept_verified_and_reported(
    here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "my_states.py:Damped"
    command = options(
        checkpoint,
        *("--tasks", "toy_gen,toy_mc", "--limit", "3"),
        *("--vary", f"skipped_state=propagate,{ours}", "--thresholds", "0.02,1"),
        trace_dir="traces",
    )
    sweep(command)
    found = blocks(here)
    assert len({block["fingerprint"] for block in found.values()}) == 4
    own = {name: block for name, block in found.items() if "Damped" in name}
    assert len(own) == 2
    (name,) = {block["settings"]["skipped_state"] for block in own.values()}
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", name)
    for point, block in own.items():
        twin = found[point.replace("my_states.py_Damped", "propagate")]
        costs = block["costs"]
        kv = 4 * costs["width"] * costs["kv_heads"] * costs["head_dim"]
        assert costs["skipped_state"] == {"name": name, "flops": kv}
        assert "skipped_state" not in twin["costs"]
        if block["settings"]["threshold"] == 1:
            assert block["ledger"] == twin["ledger"]
        else:
            assert block["layers_used"] < block["layers"]
    verified(capsys)
    assert name in to_markdown(build(load([here / "out"])))


def test_headroom_bills_a_skipped_state_of_a_file(here: Path, checkpoint: Path) -> None:
    found = {}
    for state in ("propagate", "my_states.py:Damped", "copy_kv"):
        command = options(checkpoint, "--tasks", "toy_gen", "--limit", "3", skipped_state=state)
        headroom([*command, "--output_path", state])
        (file,) = here.glob(f"{state}/*/headroom.json")
        found[state] = json.loads(file.read_text())
    free, halved, copied = (one["groups"][0]["default"]["saved"] for one in found.values())
    assert free == halved, "projections are billed, and no product of elements"
    assert free["value"] < copied["value"]
    name = found["my_states.py:Damped"]["settings"]["skipped_state"]
    assert re.fullmatch(r"my_states\.py:Damped@[0-9a-f]{12}", name)
