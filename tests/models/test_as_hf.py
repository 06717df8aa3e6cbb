"""What tests of lm-eval's ``hf`` model ask, of ours at full depth: the same answer everywhere.

Tokens of texts, prompts that bring their own <s>, prefix tokens, context lengths, batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dynamax_lm.common.errors import SettingError
from tests.checkpoints import save_checkpoint
from tests.lm_requests import ours, pairs, texts, theirs

TEXTS = ["", "Hello", "<s>Hello", " a b\n", "é漢 \U0001f600", "<s>", "</s>x"]
ENCODING: list[dict[str, Any]] = [
    {},
    {"add_special_tokens": True},
    {"add_special_tokens": False},
    {"left_truncate_len": 3},
]
SCORED = [
    *(("Q: 1+1?\nA:", " 2"), ("", "from nothing"), ("", "<s>Hello"), ("<s>Q:", " a")),
    *(("x", " "), ("a ", "b"), ("é", "漢"), ("a", "a" * 39), ("x" * 120, "long prompt")),
]
ROLLING = [("Once upon a time " * 6,), ("a",), ("é漢",), *((("x" * n),) for n in (39, 40, 41))]
PROMPTS = ["Q: where?\nA:", "a", "<s>Hello", "a\n", "é漢", "The quick brown fox. " * 6]
GENERATED: list[dict[str, Any]] = [{}, {"max_gen_toks": 1}, {"until": "e"}, {"until": ["</s>"]}]
ATTRIBUTES = ("max_length", "max_gen_toks", "eot_token_id", "prefix_token_id", "add_bos_token")


@pytest.fixture(scope="module", params=["mistral", "mamba2"])
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    return request.param, save_checkpoint(tmp_path_factory.mktemp("hf"), request.param)


@pytest.mark.parametrize(
    "options",
    [
        {"add_bos_token": True, "batch_size": 64},
        {"prefix_token_id": 5, "max_length": 40, "batch_size": "auto"},
    ],
)
def test_full_depth_is_hf(checkpoint: tuple[str, Path], options: dict[str, Any]) -> None:
    kind, folder = checkpoint
    shared = {name: value for name, value in options.items() if name != "batch_size"}
    hf, lm = theirs(folder, **shared), ours(kind, folder, mode="full", **options)
    for name in ATTRIBUTES:
        assert getattr(lm, name) == getattr(hf, name), name
    for text in TEXTS:
        for how in ENCODING:
            assert lm.tok_encode(text, **how) == hf.tok_encode(text, **how)
    assert lm.tok_decode([70, 200, 5]) == hf.tok_decode([70, 200, 5])
    for how in ({}, {"left_truncate_len": 7}, {"padding_side": "right"}):
        batches = (one.tok_batch_encode(["Hello", "<s>Hello there"], **how) for one in (lm, hf))
        for mine, other in zip(*batches, strict=True):
            assert torch.equal(mine, other)
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(lm._model_call(ids), hf._model_call(ids), atol=1e-4, rtol=1e-4)

    asked = pairs(items=SCORED)
    scores = zip(lm.loglikelihood(asked), hf.loglikelihood(asked), strict=True)
    for (mine, greedy), (other, also) in scores:
        assert mine == pytest.approx(other, abs=1e-4)
        assert greedy == also
    asked = pairs("loglikelihood_rolling", ROLLING)
    expected = hf.loglikelihood_rolling(asked, disable_tqdm=True)
    assert lm.loglikelihood_rolling(asked, disable_tqdm=True) == pytest.approx(expected, abs=1e-3)
    for given in GENERATED:
        prompts = texts(PROMPTS, **given)
        answers = lm.generate_until(prompts, disable_tqdm=True)
        assert answers == hf.generate_until(prompts, disable_tqdm=True)
    ids, attention = hf.tok_batch_encode(["Hello"])
    given = {"max_length": ids.shape[1] + 6, "stop": ["\n\n"], "attention_mask": attention}
    generated = (one._model_generate(ids, **given, do_sample=False) for one in (lm, hf))
    torch.testing.assert_close(*generated, atol=0, rtol=0)


def test_a_chat_template_that_writes_the_first_token_is_not_doubled(
    checkpoint: tuple[str, Path],
) -> None:
    kind, folder = checkpoint
    hf, lm = theirs(folder), ours(kind, folder, mode="full")
    for one in (hf, lm):
        one.tokenizer.chat_template = (
            "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
        )
    chat = [{"role": "user", "content": "Who?"}]
    prompt = lm.apply_chat_template(chat)
    assert prompt == hf.apply_chat_template(chat) == "<s>Who?"
    assert lm.tok_encode(prompt).count(lm.tokenizer.bos_token_id) == 1
    asked = texts([prompt])
    assert lm.generate_until(asked, disable_tqdm=True) == hf.generate_until(
        asked, disable_tqdm=True
    )
    scored = pairs(items=[(prompt, " me")])
    (mine, _), (other, _) = lm.loglikelihood(scored)[0], hf.loglikelihood(scored)[0]
    assert mine == pytest.approx(other, abs=1e-4)


def test_scoring_refuses_thinking_by_the_name_of_the_task(checkpoint: tuple[str, Path]) -> None:
    kind, folder = checkpoint
    lm = ours(kind, folder, mode="full", enable_thinking=True, think_end_token="</think>")
    with pytest.raises(SettingError, match=r"enable_thinking=True: toy"):
        lm.loglikelihood(pairs(items=[("a", " b")]))
