"""CONTRIBUTING's confidence measure, as somebody who copied it would run it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dynamax_lm
from benchmarks.criteria.asking import Fixed, read_exits
from dynamax_lm.certify.cli import main as certify
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.core.measures import BUILT_IN
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.tables import to_markdown
from dynamax_lm.settings import find_measure
from dynamax_lm.sweep.__main__ import main as sweep
from tests.builders import random_model, uneven_requests
from tests.examples import GUIDE, blocks, options, verified


def test_a_measure_of_a_file_is_swept_verified_and_reported_like_a_built_in_one(
    here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "my_measures.py:TopThreeMass"
    command = options(
        checkpoint,
        *("--tasks", "toy_gen,toy_mc", "--limit", "3"),
        *("--vary", f"confidence=top_prob,{ours}", "--thresholds", "0.02,0.05"),
        trace_dir="traces",
    )
    sweep(command)
    found = blocks(here)
    own = [block for name, block in found.items() if "TopThreeMass" in name]
    others = [block for name, block in found.items() if "TopThreeMass" not in name]
    digests = {block["settings"]["confidence"] for block in own}
    assert (len(own), len(others), len(digests)) == (2, 2, 1)
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", *digests)
    assert len({block["fingerprint"] for block in found.values()}) == 4
    for name, block in found.items():
        if "TopThreeMass" in name:  # three probabilities are at least one
            twin = found[name.replace("my_measures.py_TopThreeMass", "top_prob")]
            assert block["layers_used"] <= twin["layers_used"]
            assert block["costs"]["measure"]["flops"] == [0, 0, 0]
        else:
            assert "measure" not in block["costs"]
    verified(capsys)
    assert f"{next(iter(digests))} ≥ 0.02" in to_markdown(build(load([here / "out"])))

    sweep(command)
    assert capsys.readouterr().err.count("finished before") == 4
    source = here / "my_measures.py"
    source.write_text(source.read_text() + "# another content\n")
    sweep(command)
    assert capsys.readouterr().err.count("finished before") == 2
    again = {block["settings"]["confidence"] for block in blocks(here).values()} - {"top_prob"}
    assert len(again) == 1
    assert not again & digests


@pytest.mark.parametrize(
    ("argument", "ours"),
    [("confidence", "my_measures.py:TopThreeMass"), ("skipped_state", "my_states.py:Damped")],
)
def test_a_class_of_a_file_is_certified_under_its_digest(
    here: Path, checkpoint: Path, argument: str, ours: str
) -> None:
    rows = [{"question": f"{n}+1", "answer": "x", "choices": ["x", "y"]} for n in range(300)]
    data = here / "rows.jsonl"
    data.write_text("".join(json.dumps(row | {"gold": 0}) + "\n" for row in rows))
    certificate: Certificate = certify(
        options(
            checkpoint,
            *("--tasks", "toy_gen", "--data", str(data), "--num_fewshot", "0"),
            *("--thresholds", "1", "--risk", "0.1"),
            *("--batch_size", "64", "--gen_kwargs", "max_gen_toks=1"),
            **{argument: ours},
        )
    )
    known = getattr(certificate.setting, argument)
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", known)


def test_a_measure_of_a_file_is_asked_by_the_benchmark_of_criteria(here: Path) -> None:
    del here
    name = find_measure("my_measures.py:TopThreeMass").name
    hidden = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))

    class Stored:
        """States of five tokens at two exits."""

        exits = (1, 2)
        token = np.zeros(5, dtype=np.int64)

        def at(self, number: int, part: slice) -> torch.Tensor:
            return hidden[number, part]

    states: Any = Stored()
    said = read_exits(states, lambda rows: rows, None, ("top_prob", name)).confidences
    assert (said[name] >= said["top_prob"]).all()
    assert (Fixed(said[name]).leave(0.6) <= Fixed(said["top_prob"]).leave(0.6)).all()


@pytest.mark.usefixtures("no_gradients")
def test_classes_of_a_file_are_used_from_python_by_the_names_that_loading_gives(here: Path) -> None:
    del here
    stack = dynamax_lm.MistralStack(random_model("mistral", 3))
    asked, _ = uneven_requests()
    written, policy = "my_measures.py:TopThreeMass", "my_states.py:Damped"
    with pytest.raises(ValueError, match="find_measure"):
        dynamax_lm.generate(stack, asked, policy=dynamax_lm.ExitPolicy((1,), written, 0.1))
    exits = dynamax_lm.ExitPolicy((1,), dynamax_lm.find_measure(written), 0.1)
    with pytest.raises(ValueError, match="find_skipped_state"):
        dynamax_lm.Ledger(stack.costs, exit_layers=(1,), skipped_state=policy)
    name = dynamax_lm.find_skipped_state(policy, stack.costs)
    answers = dynamax_lm.generate(stack, asked, policy=exits, skipped_state=name)
    ledger = dynamax_lm.Ledger(
        stack.costs, exit_layers=(1,), confidence=exits.confidence, skipped_state=name
    )
    assert all(
        0 < ledger.bill(one.trace).layers < ledger.bill(one.trace).full_depth for one in answers
    )


def test_the_settings_page_names_every_measure_of_the_registry() -> None:
    lines = (GUIDE.parent / "docs" / "settings.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith("| `confidence` |")]
    assert set(BUILT_IN) <= set(re.findall(r"`(\w+)`", row))
