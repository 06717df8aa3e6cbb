"""Laws over the whole space of settings, on whole answers of loaded models.

Whatever is asked, either one line says why it is refused, or every law below holds. The ordinary
run tries some cases, ``pytest -m slow tests/models/test_whole_space.py`` 2,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dynamax_lm
from dynamax_lm import Answer, ExitModel
from dynamax_lm.common.errors import SettingError
from tests.checkpoints import byte_tokenizer, save_checkpoint
from tests.decoders.tiny_families import tiny_model
from tests.heads.builders import heads_of
from tests.laws import Tally

LAYERS = 4
KINDS = ("mistral", "mamba2", "bamba", "qwen3")
FLOAT, HALF = "float32", "bfloat16"
BOTH = ["propagate", "recompute"]
SKIPPED = {
    "mistral": [*BOTH, "copy_kv", "freeze"],
    "qwen3": [*BOTH, "copy_kv"],
    "mamba2": [*BOTH, "freeze", "copy_kv"],
    "bamba": [*BOTH, "attention:copy_kv+mamba2:freeze", "freeze"],
}
"""Some are refused."""
LOOKS = ["full", "full", "full", "rank:4", "rank:4+refine:9", "shortlist:7"]
HEADS = {
    "linear": {"classifier": "linear"},
    "ffn": {"classifier": "ffn", "translator": "low_rank"},
    "mamba": {"classifier": "mamba", "translator": "affine"},
    "mamba_depth": {"classifier": "mamba_depth", "translator": "low_rank"},
    "translators": {"classifier": "none", "translator": "affine"},
}
"""Of every exit; random."""
MEASURES = ("top_prob", "margin", "entropy", "saturation", "patience", "oracle", "head")


@dataclass(frozen=True)
class Loaded:
    """Models in two number formats, and folders of trained heads of each kind of model.

    Attributes:
        models: by kind and number format.
        heads: by kind of model and name in ``HEADS``.
    """

    models: dict[tuple[str, str], ExitModel]
    heads: dict[tuple[str, str], str]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    models, heads = {}, {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        if kind in {"mistral", "mamba2"}:
            save_checkpoint(folder, kind)
        else:
            model = tiny_model(kind, vocab_size=259, max_position_embeddings=96)
            model.save_pretrained(folder)
            byte_tokenizer().save_pretrained(folder)
        for dtype in (FLOAT, HALF):
            models[kind, dtype] = dynamax_lm.load(
                str(folder), dtype=dtype, products="plain", exit_layers="1+2"
            )
        backbone = models[kind, FLOAT].lm.model
        for name, options in HEADS.items():
            own = folder / name
            heads_of(backbone, tuple(range(1, LAYERS)), **options).save_pretrained(own)
            heads[kind, name] = str(own)
    return Loaded(models, heads)


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    """Settings, prompts and generation options; some combinations are refused."""
    kind = draw(st.sampled_from(KINDS))
    mode = draw(st.sampled_from(["exit", "exit", "exit", "full", "lossless"]))
    exits = draw(st.sampled_from(["2"] if mode == "lossless" else ["1", "1+3", "1+2+3", "2+3"]))
    rule = draw(st.sampled_from([None] * 9 + ["fixed_depth"]))
    heads = draw(st.sampled_from([None, *HEADS]))
    often = ["head"] * 6 if heads else []
    measure = draw(st.sampled_from([*MEASURES, *often])) if rule is None else None
    looks = LOOKS if measure in {"top_prob", "margin", "entropy", "patience"} else ["full"]
    own: dict[str, Any] = {
        "mode": mode,
        "exit_layers": exits,
        "confidence": measure,
        "heads": heads,
        "threshold": draw(st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.9, 1.0]))
        if rule is None
        else None,
        "look": draw(st.sampled_from(looks)),
        "skipped_state": draw(st.sampled_from(SKIPPED[kind] if mode == "exit" else [None])),
        "prompt_exit": draw(st.sampled_from([None, None, 2, 4])) if mode != "lossless" else None,
        "exit_rule": rule,
        "draft_length": draw(st.sampled_from([1, 3, "auto"])) if mode == "lossless" else None,
        "rows_in_flight": draw(st.sampled_from([None, 1, 5])) if mode != "lossless" else None,
        "reference": draw(st.sampled_from([True, True, False])),
    }
    asked: dict[str, Any] = {
        "until": draw(st.sampled_from([[], ["\n"], ["e", "ab"], ["é"]])),
        "max_gen_toks": draw(st.integers(1, 6)),
    }
    if draw(st.booleans()):
        asked |= draw(
            st.sampled_from(
                [
                    {"repetition_penalty": 1.5},
                    {"do_sample": True, "temperature": 0.8, "top_k": 20},
                    {"suppress_tokens": [100, 101, 102]},
                    {"no_repeat_ngram_size": 2},
                ]
            )
        )
    text = st.text(st.sampled_from("ab e\né漢"), max_size=8)
    long = st.just("abcd " * 30)  # beyond the context: cut on the left
    return {
        "own": own,
        "asked": asked,
        "prompts": draw(st.lists(st.one_of(text, text, text, long), min_size=1, max_size=4)),
        "batch_size": draw(st.integers(1, 3)),
        "model": (kind, draw(st.sampled_from([FLOAT, FLOAT, HALF]))),
    }


def generated(model: ExitModel, case: dict[str, Any], prompts: list[str]) -> list[Answer]:
    torch.manual_seed(0)
    return model.generate(prompts, **case["asked"])


def holds(loaded: Loaded, case: dict[str, Any]) -> bool:
    """Whether the case was run; if it was refused, one line says why."""
    model, own, prompts = loaded.models[case["model"]], dict(case["own"]), case["prompts"]
    own["heads"] = loaded.heads.get((case["model"][0], own["heads"]))
    model.lm.batch_size_per_gpu = case["batch_size"]
    try:
        model.change(**own)
        answers = generated(model, case, prompts)
    except SettingError as error:
        refusal = str(error)
        answers = []
    if not answers:
        assert refusal
        assert "\n" not in refusal
        return False
    every = {*model.settings.exit_layers, LAYERS}
    for answer in answers:
        assert 1 <= len(answer.trace.tokens) <= case["asked"]["max_gen_toks"]
        assert set(answer.layers_used) <= every
        assert answer.flops == model.ledger.bill(answer.trace.text)
        if own["mode"] != "exit":
            assert set(answer.layers_used) == {LAYERS}
            rounds = own["mode"] == "lossless" and case["model"][1] == HALF  # verification does
            if own["prompt_exit"] is None and not rounds:
                assert answer.agreement in {1.0, None}
        elif answer.agreement is not None:
            assert 0.0 <= answer.agreement <= 1.0
    if case["model"][1] == FLOAT:
        alone(model, case, answers)
    scores(model, prompts[0])
    return True


def alone(model: ExitModel, case: dict[str, Any], answers: list[Answer]) -> None:
    """A row's answer does not depend on its batch; a lossless one is full depth's."""
    own = case["own"]
    tally = Tally(own["threshold"] or 0.0)
    model.lm.batch_size_per_gpu = 1
    for single, answer in zip(generated(model, case, case["prompts"]), answers, strict=True):
        if own["mode"] == "lossless":
            assert single.text == answer.text
        else:
            tally.same(single.trace, answer.trace)
    if own["mode"] == "lossless":
        model.change(mode="full", draft_length=None)
        full = generated(model, case, case["prompts"])
        assert [one.text for one in full] == [one.text for one in answers]
        model.change(mode="lossless")


def scores(model: ExitModel, prompt: str) -> None:
    scored = model.score(prompt, " ab")
    assert math.isfinite(scored.log_likelihood)
    assert scored.log_likelihood <= 0
    assert set(scored.trace.layers_used) <= {*model.settings.exit_layers, LAYERS}
    assert scored.flops == model.ledger.bill(scored.trace)


@settings(max_examples=100)
@given(case=cases())
def test_every_case_is_refused_or_right(loaded: Loaded, case: dict[str, Any]) -> None:
    holds(loaded, case)


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_two_thousand_cases(loaded: Loaded, case: dict[str, Any]) -> None:
    holds(loaded, case)
