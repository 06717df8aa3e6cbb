"""Every generation option acts as in transformers' ``generate``, through lm-eval's ``hf`` model."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import GenerationMixin

from dynamax_lm.common.errors import SettingError
from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral
from dynamax_lm.models.sampling import HONOURED
from tests.checkpoints import save_checkpoint

PROMPTS = ("The old man and the sea", "abcabcabc")
OURS = {"mistral": DynamaxMistral, "mamba2": DynamaxMamba}

OPTIONS: dict[str, Any] = {
    "bad_words_ids": [[40], [41, 42]],
    "begin_suppress_tokens": list(range(40, 120)),
    "exponential_decay_length_penalty": [2, 1.5],
    "forced_eos_token_id": 77,
    "min_length": 20,
    "min_new_tokens": 9,
    "no_repeat_ngram_size": 2,
    "remove_invalid_values": True,
    "renormalize_logits": True,
    "repetition_penalty": 1.7,
    "sequence_bias": [[[50], 9.0], [[51, 52], -4.0]],
    "suppress_tokens": list(range(60, 110)),
}
"""Those that act on greedy choices."""

DRAWS: dict[str, Any] = {
    "do_sample": True,
    "temperature": 1.3,
    "top_h": 0.9,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.001,
    "typical_p": 0.97,
    "epsilon_cutoff": 0.0005,
    "eta_cutoff": 0.0005,
}
"""Those that act on drawn choices."""

_OTHERWISE = {"eos_token_id", "pad_token_id", "use_cache"}  # choose no token


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    made = {}
    for kind, ours in OURS.items():
        folder = str(save_checkpoint(tmp_path_factory.mktemp(kind), kind))
        theirs = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1)
        made[kind] = (theirs, ours(pretrained=folder, dtype="float32", mode="full", batch_size=2))
    return made


def asked(options: dict[str, Any], prompts: tuple[str, ...] = PROMPTS) -> list[Instance]:
    given = {"until": [], "max_gen_toks": 12, **options}
    return [
        Instance("generate_until", {}, (prompt, json.loads(json.dumps(given))), 0, ("t", n, 1))
        for n, prompt in enumerate(prompts)
    ]


def test_the_options_are_all() -> None:
    assert set(OPTIONS) | set(DRAWS) | _OTHERWISE == HONOURED


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_acts_as_in_generate(
    models: dict[str, tuple[Any, Any]], name: str, kind: str
) -> None:
    theirs, ours = models[kind]
    options = {name: OPTIONS[name]}
    wanted = theirs.generate_until(asked(options), disable_tqdm=True)
    assert list(map(str, ours.generate_until(asked(options), disable_tqdm=True))) == wanted


@pytest.mark.parametrize("kind", OURS)
def test_lossless_texts_are_full_depths_under_every_option(
    models: dict[str, tuple[Any, Any]], kind: str
) -> None:
    """Each option alone, and several together; requests of different options share batches."""
    _, full = models[kind]
    lossless = OURS[kind](
        pretrained=full.pretrained,
        **{"dtype": "float32", "mode": "lossless", "exit_layers": 2, "threshold": 0.0},
        **{"draft_length": 3, "batch_size": 8, "reference": False},
    )
    cases = [{name: value} for name, value in (OPTIONS | {"eos_token_id": [70, 90]}).items()]
    cases += [{"do_sample": True, name: value} for name, value in DRAWS.items()]
    together = {name: OPTIONS[name] for name in ("repetition_penalty", "bad_words_ids")}
    together |= {"no_repeat_ngram_size": 2, "min_new_tokens": 9}
    cases += [together, DRAWS | together]
    requests = [one for options in cases for one in asked(options)]
    wanted, found = (lm.generate_until(requests, disable_tqdm=True) for lm in (full, lossless))
    drafted = 0
    for request, ours, theirs in zip(requests, found, wanted, strict=True):
        assert ours.record.traces[0].tokens == theirs.record.traces[0].tokens, request.args
        assert str(ours) == str(theirs)
        drafted += sum(len(one.drafted) for one in ours.record.traces[0].rounds or ())
    assert drafted > 10 * len(cases)
    assert len(set(map(str, found))) > 2 * len(PROMPTS), "options change the texts"


@pytest.mark.parametrize(("name", "value"), [("num_beams", 2), ("penalty_alpha", 0.6)])
def test_lossless_refuses_options_by_name(
    models: dict[str, tuple[Any, Any]], name: str, value: float
) -> None:
    _, full = models["mistral"]
    lossless = DynamaxMistral(pretrained=full.pretrained, dtype="float32", mode="lossless")
    with pytest.raises(SettingError, match=name):
        lossless.generate_until(asked({name: value}), disable_tqdm=True)


@pytest.mark.parametrize("length", [None, 64])
def test_a_forced_end_is_at_the_answers_end(tmp_path: Path, length: int | None) -> None:
    """Whatever length the checkpoint's generation configuration has."""
    folder = save_checkpoint(tmp_path, "mistral")
    path = folder / "generation_config.json"
    known = {k: v for k, v in json.loads(path.read_text()).items() if k != "max_length"}
    path.write_text(json.dumps(known | ({} if length is None else {"max_length": length})))
    ours = DynamaxMistral(pretrained=str(folder), mode="full", batch_size=2)
    for answer in ours.generate_until(asked({"forced_eos_token_id": 77}), disable_tqdm=True):
        (trace,) = answer.record.traces
        assert len(trace.tokens) == 12
        assert trace.tokens[-1] == 77


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 5),
        ("max_time", 1.5),
        ("encoder_no_repeat_ngram_size", 2),
        ("encoder_repetition_penalty", 1.3),
        ("guidance_scale", 2.0),
    ],
)
def test_a_checkpoints_own_option_is_refused_not_ignored(
    tmp_path: Path, name: str, value: float
) -> None:
    folder = save_checkpoint(tmp_path, "mistral")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    ours = DynamaxMistral(pretrained=str(folder), mode="full")
    with pytest.raises(SettingError, match=f"generation_config has {name}="):
        ours.generate_until(asked({}), disable_tqdm=True)


def test_every_processor_of_transformers_is_known() -> None:
    """Each option that it builds processors from is honoured, or is among the refused above."""
    source = inspect.getsource(GenerationMixin._get_logits_processor)
    named = set(re.findall(r"generation_config\.([a-z]\w*)", source))
    honoured = HONOURED | {"forced_bos_token_id", "watermarking_config"}
    others = {"num_beams", "max_length"}  # refused as a mode; set for each request
    assert named - honoured - others == {
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "guidance_scale",
    }


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("reference", [True, False])
def test_a_continuation_without_tokens_is_certain(
    tmp_path: Path, kind: str, reference: bool
) -> None:
    folder = save_checkpoint(tmp_path, kind)
    lm = OURS[kind](pretrained=str(folder), batch_size=2, reference=reference)
    pairs = [("Q: 1+1?", " 2"), ("Q: x", ""), ("Q: 1+1?", " 3")]
    some = [Instance("loglikelihood", {}, pair, 0, ("t", n, 1)) for n, pair in enumerate(pairs)]
    found = lm.loglikelihood(some, disable_tqdm=True)
    assert found[1] == (0.0, True)
    assert found[1].record.traces == ()
    alone = lm.loglikelihood([some[0], some[2]], disable_tqdm=True)
    for ours, own in zip([found[0], found[2]], alone, strict=True):
        assert ours[0] == pytest.approx(own[0])


@pytest.mark.parametrize("kind", OURS)
def test_no_stop_sequence_may_be_written_in_any_way(
    models: dict[str, tuple[Any, Any]], kind: str
) -> None:
    _, ours = models[kind]
    answers = [
        list(map(str, ours.generate_until(asked({"until": until}), disable_tqdm=True)))
        for until in ([], None, [None], "", [""])
    ]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("until", [5, {"a": 1}, ["x", 5]])
def test_a_stop_sequence_that_is_no_text_is_refused(
    models: dict[str, tuple[Any, Any]], until: Any
) -> None:
    _, ours = models["mistral"]
    with pytest.raises(SettingError, match="gen_kwargs until="):
        ours.generate_until(asked({"until": until}), disable_tqdm=True)
