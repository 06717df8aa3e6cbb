"""CONTRIBUTING's kind of layer, as somebody who copied it would run it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import dynamax_lm
from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.costs import costs_of_layers
from dynamax_lm.harness.command_line import Command
from dynamax_lm.headroom.__main__ import parser
from dynamax_lm.headroom.run import run
from dynamax_lm.headroom.verdict import WORTHWHILE
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.tables import to_markdown
from dynamax_lm.sweep.__main__ import main as sweep
from tests.builders import random_model, uneven_requests
from tests.examples import blocks, options, verified


def test_headroom_evaluates_layers_of_a_file(here: Path, checkpoint: Path) -> None:
    del here
    ours = "my_layers.py:AverageAbove"
    command = options(checkpoint, "--tasks", "toy_mc", "--limit", "2", layers=ours)
    found = run(Command(parser().parse_args(command)), WORTHWHILE)
    assert found.layers == 8, "twice the checkpoint's own"
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", found.settings["layers"])


def test_layers_of_a_file_are_swept_verified_and_reported(
    here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "my_layers.py:AverageAbove"
    command = options(
        checkpoint,
        *("--tasks", "toy_gen,toy_mc", "--limit", "3"),
        *("--point", "threshold=1", "--point", f"threshold=1,layers={ours}"),
        *("--point", f"threshold=0.05,layers={ours},skipped_state=recompute"),
        trace_dir="traces",
    )
    sweep(command)
    found = blocks(here)
    assert len({block["fingerprint"] for block in found.values()}) == 3
    own = [block for block in found.values() if "layers" in block["settings"]["arguments"]]
    (plain,) = [block for block in found.values() if block not in own]
    (name,) = {block["settings"]["arguments"]["layers"] for block in own}
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", name)
    assert [block["layers"] for block in own] == [2 * plain["layers"]] * 2
    full, early = sorted(own, key=lambda block: -block["settings"]["threshold"])
    assert full["layers_used"] == full["layers"] > early["layers_used"]
    verified(capsys)
    assert f"layers={name}" in to_markdown(build(load([here / "out"])))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"layers": "my_layers.py"}, r"FILE\.py:CLASS"),
        ({"layers": "my_layers.py:AverageCosts"}, r"lacks costs\(self, own\)"),
        ({"layers": "my_layers.py:AverageAbove", "heads": "tiny-mistral"}, "own layers"),
        ({"layers": "my_layers.py:LayerPlan"}, "NotImplementedError"),
        ({"layers": "my_layers.py:AverageAbove", "exit_layers": [8]}, r"1\.\.7"),
        ({"layers": "my_layers.py:AverageAbove", "skipped_state": "copy_kv"}, "copy_kv"),
    ],
)
def test_layers_that_cannot_run_are_refused_before_the_weights_load(
    here: Path, checkpoint: Path, given: dict[str, Any], word: str
) -> None:
    del here
    with pytest.raises(SettingError, match=word):
        dynamax_lm.load(str(checkpoint), **given)


def average_above(here: Path, model: Any) -> dynamax_lm.Decoder:
    """The example's layers in a model."""
    plan: Any = runpy.run_path(str(here / "my_layers.py"))["AverageAbove"]()
    stack = dynamax_lm.MistralStack(model)
    made = stack.with_layers(plan.layers(stack.layers, model))
    assert made.costs == costs_of_layers(plan.costs(stack.costs.kinds))
    return made


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("skipped", ["propagate", "recompute"])
@pytest.mark.parametrize("threshold", [1.0, 0.15])
def test_a_new_kind_of_layer_decodes_as_it_scores(
    here: Path, skipped: str, threshold: float
) -> None:
    """Alone and beside others; at full depth as its modules do when called one after the other."""
    model = random_model("mistral", 3)
    stack = average_above(here, model)
    policy = dynamax_lm.ExitPolicy((1, 2, 4), "top_prob", threshold)
    given: Any = {"policy": policy, "skipped_state": skipped, "reference": True}
    asked, _ = uneven_requests()
    answers = dynamax_lm.generate(stack, asked, **given)
    depths = {used for answer in answers for used in answer.trace.layers_used}
    assert depths == {6} if threshold == 1 else len(depths) > 1
    again = [
        dynamax_lm.ScoreRequest(one.prompt, answer.trace.tokens)
        for one, answer in zip(asked, answers, strict=True)
    ]
    scored = dynamax_lm.score(stack, again, **given)
    ledger = dynamax_lm.Ledger(stack.costs, exit_layers=policy.exit_layers, skipped_state=skipped)
    for one, answer, other in zip(asked, answers, scored, strict=True):
        (alone,) = dynamax_lm.generate(stack, [one], **given)
        assert alone.trace.tokens == answer.trace.tokens == other.trace.emitted
        assert alone.trace.layers_used == answer.trace.layers_used == other.trace.layers_used
        assert answer.reference == greedy_by_hand(model, stack, one)
        bill = ledger.answer(answer.trace.prompt_tokens, answer.trace.layers_used)
        if threshold == 1:
            assert answer.trace.tokens == answer.reference
            assert bill.spent - bill.full_depth == bill.checks
        else:
            assert bill.layers < bill.full_depth


@pytest.mark.usefixtures("no_gradients")
def test_a_new_kind_of_layer_decodes_losslessly(here: Path) -> None:
    model = random_model("mistral", 3)
    stack = average_above(here, model)
    asked, _ = uneven_requests()
    policy = dynamax_lm.ExitPolicy((2,), "top_prob", 0.1)
    answers = dynamax_lm.generate(stack, asked, policy=policy, draft_length=3)
    for one, answer in zip(asked, answers, strict=True):
        assert answer.trace.tokens == greedy_by_hand(model, stack, one)
    drafted = [one for answer in answers for one in answer.trace.rounds or ()]
    assert any(one.depths for one in drafted)


def greedy_by_hand(
    model: Any, stack: dynamax_lm.Decoder, request: dynamax_lm.GenerateRequest
) -> tuple[int, ...]:
    """Modules called on the whole text, each average in its closed form."""
    tokens = list(request.prompt)
    while len(tokens) < len(request.prompt) + request.max_new:
        hidden = model.model.embed_tokens(torch.tensor([tokens]))
        angles = model.model.rotary_emb(hidden, torch.arange(len(tokens))[None])
        past = torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))
        weights = 0.2 * 0.8 ** past.clamp(min=0).float()
        weights[:, 0] /= 0.2  # the first token starts the average
        weights = weights * (past >= 0)
        averages: list[Any] = list(stack.layers[1::2])
        for block, average in zip(model.model.layers, averages, strict=True):
            hidden = block(hidden, attention_mask=None, position_embeddings=angles)
            hidden = hidden + average.module(weights @ hidden)
        logits = model.lm_head(model.model.norm(hidden[0, -1]))
        tokens.append(int(logits.argmax()))
    return tuple(tokens[len(request.prompt) :])
