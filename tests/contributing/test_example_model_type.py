"""CONTRIBUTING's plan for a model type that the package lacks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import dynamax_lm
from dynamax_lm.common.errors import SettingError
from dynamax_lm.report.__main__ import main as report
from dynamax_lm.sweep.__main__ import main as sweep
from tests.builders import uneven_requests
from tests.checkpoints import BYTES, byte_tokenizer
from tests.examples import blocks, options

PYTHIA = "my_layers.py:Pythia"


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a ``model_type`` that the package lacks."""
    folder = tmp_path_factory.mktemp("neox")
    random_neox().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def random_neox(layers: int = 4) -> Any:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        **{"vocab_size": BYTES, "hidden_size": 16, "num_hidden_layers": layers},
        **{"num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 96},
        **{"bos_token_id": 1, "eos_token_id": 2},
    )
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


def test_a_new_model_type_is_swept_verified_and_drafted(
    here: Path, neox: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = ("threshold=1", "threshold=0.05", "threshold=0.05,skipped_state=recompute")
    drafts = "mode=lossless,exit_layers=2,threshold=0.05"
    command = options(
        neox,
        *("--model", "dynamax", "--tasks", "toy_gen,toy_mc", "--limit", "3"),
        *(part for point in (*points, drafts) for part in ("--point", point)),
        layers=PYTHIA,
        trace_dir="traces",
    )
    sweep(command)
    found = sorted(blocks(here).values(), key=lambda one: one["layers_used"])
    assert len({block["fingerprint"] for block in found}) == 4
    (name,) = {block["settings"]["arguments"]["layers"] for block in found}
    assert re.fullmatch(re.escape(PYTHIA) + "@[0-9a-f]{12}", name)
    assert {block["layers"] for block in found} == {4}
    assert found[0]["layers_used"] < found[-1]["layers_used"] == 4
    capsys.readouterr()
    assert report(["out", "--verify"]) == 0
    assert " 0 do not match" in capsys.readouterr().out


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("skipped", ["propagate", "recompute"])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 1.0])
def test_a_new_model_type_decodes_as_transformers_and_as_it_scores(
    here: Path, neox: Path, skipped: str, threshold: float
) -> None:
    """If all tokens exit at layer 2, as transformers' model of two layers."""
    del here
    stack = dynamax_lm.load(str(neox), layers=PYTHIA).lm.stack
    policy = dynamax_lm.ExitPolicy((2, 3), "top_prob", threshold)
    given: Any = {"policy": policy, "skipped_state": skipped}
    asked, _ = uneven_requests()
    answers = dynamax_lm.generate(stack, asked, **given)
    depths = {used for answer in answers for used in answer.trace.layers_used}
    assert depths == {0.0: {2}, 1.0: {4}}.get(threshold, {2, 3, 4})
    again = [
        dynamax_lm.ScoreRequest(one.prompt, answer.trace.tokens)
        for one, answer in zip(asked, answers, strict=True)
    ]
    for one, answer, other in zip(
        asked, answers, dynamax_lm.score(stack, again, **given), strict=True
    ):
        assert answer.trace.tokens == other.trace.emitted
        assert answer.trace.layers_used == other.trace.layers_used
        (alone,) = dynamax_lm.generate(stack, [one], **given)
        assert alone.trace.tokens == answer.trace.tokens
        if threshold == 1:
            assert answer.trace.tokens == continued(random_neox(), one)
        if threshold == 0:
            cut = random_neox()
            cut.gpt_neox.layers = cut.gpt_neox.layers[:2]
            cut.config.num_hidden_layers = 2
            assert answer.trace.tokens == continued(cut, one)


def continued(model: Any, request: dynamax_lm.GenerateRequest) -> tuple[int, ...]:
    """Most likely tokens after forwards of the whole text."""
    tokens = list(request.prompt)
    while len(tokens) < len(request.prompt) + request.max_new:
        tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tuple(tokens[len(request.prompt) :])


def test_a_plan_of_other_layers_than_the_checkpoints_is_refused(here: Path, neox: Path) -> None:
    with pytest.raises(SettingError, match=r"'gpt_neox'; layers=FILE\.py:CLASS"):
        dynamax_lm.load(str(neox), layers="my_layers.py:AverageAbove")
    with pytest.raises(SettingError, match="'gpt_neox'"):
        dynamax_lm.load(str(neox), "dynamax-mistral", layers=PYTHIA)
    source = (here / "my_layers.py").read_text()
    changed = source.replace("torch.tensor([[len(row)]]", "torch.tensor([[2 * len(row)]]")
    assert changed != source
    (here / "my_layers.py").write_text(changed)
    with pytest.raises(SettingError, match=r"are not those that layers=my_layers\.py:Pythia"):
        dynamax_lm.load(str(neox), layers=PYTHIA)
