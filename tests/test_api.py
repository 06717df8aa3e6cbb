"""The public interface: what it says is what lm-eval's run of the same settings says."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dynamax_lm
from tests.builders import shallow
from tests.checkpoints import save_checkpoint

PROMPTS = ["a quiet harbour", "the", "numbers 1 2 3"]


@pytest.fixture(scope="module", params=["mistral", "mamba2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    return save_checkpoint(folder, request.param)


def test_every_export_exists_and_nothing_heavy_is_loaded_for_it() -> None:
    for name in dynamax_lm.__all__:
        assert getattr(dynamax_lm, name) is not None
    assert set(dynamax_lm.__all__) - {"__version__"} == set(dynamax_lm._HOMES)
    code = "import dynamax_lm, sys; assert not {'torch', 'lm_eval'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dynamax_lm.nothing  # noqa: B018


def test_the_examples_in_the_docstrings_run() -> None:
    exports = [getattr(dynamax_lm, name) for name in dynamax_lm.__all__ if name != "__version__"]
    homes = {importlib.import_module(one.__module__) for one in exports}
    for module in (dynamax_lm, *homes):
        assert not doctest.testmod(module).failed
    for one in exports:
        assert ">>>" in (one.__doc__ or ""), f"{one.__name__} does not show its use"


def test_the_model_is_read_from_the_checkpoint(checkpoint: Path) -> None:
    lm = dynamax_lm.load(str(checkpoint), threshold=0.5).lm
    assert lm.config.model_type in lm.ARCHITECTURE.types


def test_answers_carry_tokens_depths_and_costs(checkpoint: Path) -> None:
    model = dynamax_lm.load(str(checkpoint), threshold=0.02, batch_size=2)
    answers = model.generate(PROMPTS, max_gen_toks=6)
    alone = [model.generate(one, max_gen_toks=6) for one in PROMPTS]
    assert [one.trace.tokens for one in answers] == [one.trace.tokens for one in alone]
    for answer in answers:
        assert len(answer.layers_used) == len(answer.confidence) == len(answer.pieces) > 0
        assert answer.text.startswith("".join(answer.pieces).strip()[:1])
        assert answer.flops.full_depth > 0
        assert answer.agreement is None or 0 <= answer.agreement <= 1
        bill = model.ledger.answer(answer.trace.prompt_tokens, answer.trace.text.layers_used)
        assert bill == answer.flops


def test_threshold_one_is_full_depth(checkpoint: Path) -> None:
    model = dynamax_lm.load(str(checkpoint), threshold=0.02)
    model.change(threshold=1.0)
    answer = model.generate(PROMPTS[0], max_gen_toks=5)
    assert set(answer.layers_used) == {model.n_layers}
    assert answer.reference == answer.text


def test_a_score_is_what_the_exits_say(checkpoint: Path) -> None:
    model = dynamax_lm.load(str(checkpoint), threshold=1.0)
    score = model.score("a quiet", " harbour")
    assert score.reference == (score.log_likelihood, score.greedy)
    ids = torch.tensor([model.lm.tok_encode("a quiet harbour")])
    with torch.inference_mode():
        logits = model.lm.model(ids).logits[0].log_softmax(-1)
    wanted = logits[torch.arange(ids.shape[1] - 1), ids[0, 1:]][-len(score.trace.tokens) :]
    assert score.log_likelihood == pytest.approx(float(wanted.sum()), abs=1e-3)


def test_the_probe_shows_every_exit(checkpoint: Path) -> None:
    model = dynamax_lm.load(str(checkpoint), threshold=0.5)
    grid = model.probe(PROMPTS[0])
    ids = model.lm.tok_encode(PROMPTS[0])
    assert grid.tokens.tolist() == list(ids)
    assert "".join(grid.pieces) == model.lm.tok_decode(list(ids), skip_special_tokens=False)
    for place, layer in enumerate(grid.layers.tolist()):
        with torch.inference_mode():
            logits = shallow(model.lm.model, layer)(torch.tensor([ids])).logits[0]
        assert (logits.argmax(-1).numpy() == grid.predicted[:, place]).mean() > 0.9
        top = logits.softmax(-1).amax(-1).numpy()
        assert np.allclose(top, grid.confidence[:, place], atol=1e-3)
    assert grid.agrees.shape == grid.confidence.shape == (len(ids), model.n_layers - 1)


def test_a_model_at_full_depth_is_probed_by_top_prob() -> None:
    """Its measure is that of heads, which ``mode=full`` does not load."""
    model = dynamax_lm.load("tiny", mode="full")
    grid = model.probe("The cat sat on the mat")
    assert grid.layers.tolist() == list(range(1, model.n_layers))
    again = dynamax_lm.load("tiny", heads="none").probe("The cat sat on the mat", None, "top_prob")
    assert np.allclose(grid.confidence, again.confidence, atol=1e-4)
    with pytest.raises(dynamax_lm.SettingError, match="there are heads"):
        model.probe("The cat", None, "head")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"exit_layers": [3, 1]}, "ascending"),
        ({"exit_layers": [4]}, "within 1..3"),
    ],
)
def test_a_wrong_probe_is_one_line(checkpoint: Path, given: dict[str, Any], line: str) -> None:
    model = dynamax_lm.load(str(checkpoint))
    with pytest.raises(dynamax_lm.SettingError, match=line):
        model.probe("text", **given)
    model.change(confidence="oracle")
    with pytest.raises(dynamax_lm.SettingError, match="oracle"):
        model.probe("text")


def test_a_text_without_tokens_is_one_line(tmp_path: Path) -> None:
    model = dynamax_lm.load(str(save_checkpoint(tmp_path, "mistral", bos=False)))
    with pytest.raises(dynamax_lm.SettingError, match="no token"):
        model.probe("")


def test_a_wrong_load_is_one_line() -> None:
    for given, line in (
        ({"pretrained": "./nowhere"}, "no such folder"),
        ({"model": "gpt"}, "dynamax-mistral"),
        ({"threshold": 2}, "threshold"),
    ):
        with pytest.raises(dynamax_lm.SettingError, match=line):
            dynamax_lm.load(**given)


def test_an_exit_that_the_model_does_not_have_is_refused(checkpoint: Any) -> None:
    model = dynamax_lm.load(str(checkpoint))
    request = dynamax_lm.GenerateRequest((1, 2), 1, lambda tokens: False)
    policy = dynamax_lm.ExitPolicy((4, 80), "top_prob", 0.5)
    with pytest.raises(ValueError, match=r"exit_layers=\(4, 80\): give layers in 1\.\."):
        dynamax_lm.generate(model.lm.stack, [request], policy=policy)
