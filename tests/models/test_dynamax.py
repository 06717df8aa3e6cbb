"""``--model dynamax``: any checkpoint of the table, as lm-eval's ``hf`` model runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

import dynamax_lm
from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.checkpoint import ATTENTION, FAMILY, Architecture, check_config
from dynamax_lm.decoders.costs.record import from_record, to_record
from dynamax_lm.decoders.description import text_config
from dynamax_lm.decoders.families import text_decoder
from dynamax_lm.decoders.family_costs import decoder_costs
from dynamax_lm.decoders.loading import auto_class_of
from dynamax_lm.models.lm import Dynamax
from dynamax_lm.settings import ExitSettings, parse_settings
from tests.checkpoints import BYTES, byte_tokenizer
from tests.decoders.tiny_families import DECODERS, tiny_config, tiny_model

TEXTS = ["ab", "the quick brown fox jumps over", "", "x y z", "0123456789", "hello", "q"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves a random checkpoint of a family, once."""
    saved: dict[str, Path] = {}

    def save(family: str) -> Path:
        if family not in saved:
            saved[family] = tmp_path_factory.mktemp(family.replace(":", "_"))
            model = tiny_model(family, vocab_size=BYTES, eos_token_id=2, pad_token_id=None)
            model.save_pretrained(saved[family])
            byte_tokenizer().save_pretrained(saved[family])
        return saved[family]

    return save


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, place, (None, place, 1)) for place, one in enumerate(arguments)]


class WrapperHFLM(HFLM):
    """For wrappers that ``AutoModelForCausalLM`` does not know."""

    AUTO_MODEL_CLASS = AutoModelForImageTextToText


THEIRS = {
    "gemma3_text": HFLM,
    "mixtral": HFLM,
    "falcon_mamba": HFLM,
    "bamba": HFLM,
    "gemma3:gemma3_text": HFLM,
    "mistral3:ministral3": WrapperHFLM,
}


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("family", THEIRS)
def test_full_depth_is_the_hf_model(
    family: str, batch_size: int, folder: Callable[[str], Path]
) -> None:
    """Texts, likelihoods and rolling likelihoods, over uneven prompts."""
    shared: dict[str, Any] = {
        "pretrained": str(folder(family)),
        "batch_size": batch_size,
        "device": "cpu",
        "dtype": "float32",
    }
    ours, theirs = Dynamax(**shared, mode="full"), THEIRS[family](**shared)
    options = {"until": ["zz"], "max_gen_toks": 5, "do_sample": False}
    generated = requests("generate_until", [(text or "-", options) for text in TEXTS])
    assert ours.generate_until(generated, disable_tqdm=True) == theirs.generate_until(
        generated, disable_tqdm=True
    )
    scored = requests("loglikelihood", [(text, " and more") for text in TEXTS])
    pairs = zip(
        ours.loglikelihood(scored, disable_tqdm=True),
        theirs.loglikelihood(scored, disable_tqdm=True),
        strict=True,
    )
    for mine, other in pairs:
        assert mine[0] == pytest.approx(other[0], abs=1e-3)
        assert mine[1] == other[1]
    rolled = requests("loglikelihood_rolling", [(text,) for text in TEXTS if text])
    assert ours.loglikelihood_rolling(rolled, disable_tqdm=True) == pytest.approx(
        theirs.loglikelihood_rolling(rolled, disable_tqdm=True), abs=1e-3
    )


@pytest.mark.parametrize("family", ["mistral3:mistral", "qwen3"])
def test_a_head_of_its_own_stays(
    family: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Though the configuration says that it is the embedding, as Mistral 3's does by default."""
    shutil.copytree(folder(family), tmp_path, dirs_exist_ok=True)
    written = json.loads((tmp_path / "config.json").read_text())
    del written["tie_word_embeddings"]
    written |= {} if ":" in family else {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(written))
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.tie_word_embeddings
    theirs = auto_class_of(config).from_pretrained(tmp_path)
    for pretrained, options in ((str(tmp_path), {}), (theirs, {"tokenizer": str(tmp_path)})):
        ours = Dynamax(pretrained=pretrained, device="cpu", **options)
        head, embedding = ours.stack.lm_head.weight, ours.model.get_input_embeddings().weight
        saved = load_file(tmp_path / "model.safetensors")
        name = next(name for name in saved if name.endswith("lm_head.weight"))
        assert torch.equal(head, saved[name])
        assert not torch.equal(head, embedding)


def test_load_picks_the_model_by_the_checkpoint(folder: Callable[[str], Path]) -> None:
    model = dynamax_lm.load(str(folder("qwen3")), threshold=0.0, exit_layers=[2])
    assert isinstance(model.lm, Dynamax)
    answer = model.generate("abc", max_gen_toks=4)
    assert set(answer.layers_used) == {2}
    costs = decoder_costs(*text_decoder(model.lm.config))
    run: Any = model.lm.early_exit_run
    written = {name: one for name, one in run.live.costs.items() if name != "exit_extras"}
    assert from_record(written) == costs


def test_the_embedded_hybrid_exits_and_drafts() -> None:
    """Its exits are in its latter half, and drafts from them end in full depth's own answer."""
    model = dynamax_lm.load("tiny-hybrid", threshold=0.0, heads=None)
    assert isinstance(model.lm, Dynamax)
    assert model.settings.exit_layers == (8, 10, 12, 14)
    prompt = "Q: Who wrote Hamlet?\nA:"
    assert set(model.generate(prompt, max_gen_toks=4).layers_used) == {8}
    model.change(mode="full")
    full = model.generate(prompt, max_gen_toks=12).text
    model.change(mode="lossless", exit_layers=[8], threshold=0.4)
    assert model.generate(prompt, max_gen_toks=12).text == full


def settle(family: str, skipped_state: str, exits: str = "2+3") -> ExitSettings:
    """The settings of a run of a tiny checkpoint, before its weights load."""
    costs = decoder_costs(*text_decoder(tiny_config(family)))
    raw = parse_settings({"skipped_state": skipped_state, "exit_layers": exits})
    return raw.resolve(n_layers=costs.n_layers, architecture=costs)


@pytest.mark.parametrize(
    ("family", "written", "settled"),
    [
        ("bamba", "mamba2:freeze+attention:copy_kv", "attention:copy_kv+mamba2:freeze"),
        ("jamba", "attention:propagate+mamba:freeze", "attention:propagate+mamba:freeze"),
        ("falcon_h1", "attention:copy_kv+mamba2:propagate", "attention:copy_kv+mamba2:propagate"),
        ("nemotron_h", "attention:propagate+mamba2:propagate", "propagate"),
        ("bamba", "recompute", "recompute"),
        ("qwen3", "attention:copy_kv", "copy_kv"),
    ],
)
def test_a_skipped_state_for_each_kind_of_layer(family: str, written: str, settled: str) -> None:
    assert settle(family, written).skipped_state == settled


@pytest.mark.parametrize(
    ("family", "written", "exits", "why"),
    [
        ("bamba", "freeze", "2+3", "silent hole .* as attention:copy_kv|mamba2:freeze"),
        ("bamba", "copy_kv", "2+3", "no K and V"),
        ("bamba", "attention:copy_kv", "2+3", "layers of mamba2 and attention; give each of them"),
        ("bamba", "attention:copy_kv+mamba:freeze", "2", "layers of mamba2 and attention"),
        ("bamba", "attention:freeze+mamba2:freeze", "2", "silent hole"),
        ("bamba", "attention:recompute+mamba2:freeze", "2", "attention has propagate, copy_kv"),
        ("bamba", "attention:copy_kv+linear:freeze", "2", "kinds of layer are attention, mamba2"),
        ("bamba", "mamba2:freeze+mamba2:propagate", "2", "given twice"),
        ("bamba", "attention:copy_kv+mamba2:freeze", "1+2", "the first attention layer is 2"),
        ("llama", "attention:propagate+mamba2:freeze", "2", "layers of attention; give each"),
    ],
)
def test_skipped_states_that_a_decoder_cannot_have(
    family: str, written: str, exits: str, why: str
) -> None:
    with pytest.raises(SettingError, match=why):
        settle(family, written, exits)


@pytest.mark.parametrize("family", DECODERS)
def test_costs_are_read_back_from_their_record(family: str) -> None:
    costs = decoder_costs(*text_decoder(tiny_config(family)))
    assert from_record(to_record(costs)) == costs


def test_other_checkpoints_are_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"dynamax runs model_type llama, .* 'gpt2'"):
        check_config(type("Config", (), {"model_type": "gpt2"}), FAMILY)
    with pytest.raises(SettingError, match="pretrained is missing: --model dynamax runs"):
        Dynamax()


@pytest.mark.parametrize(
    ("wrapper", "text", "architecture", "why"),
    [
        ("mistral3", "qwen2", FAMILY, "decoder mistral or ministral3, .* the text decoder 'qwen2'"),
        ("llava", "llama", FAMILY, "model_type 'llava' with the text decoder 'llama'$"),
        ("mistral3", "mistral", ATTENTION, "decoder 'mistral'; use --model dynamax$"),
    ],
)
def test_a_wrapper_that_is_refused_names_its_text_decoder(
    wrapper: str, text: str, architecture: Architecture, why: str
) -> None:
    config = AutoConfig.for_model(wrapper, text_config=tiny_config(text).to_dict())
    with pytest.raises(SettingError, match=why) as caught:
        check_config(config, architecture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "options", "why"),
    [
        ("nemotron_h", {"moe_latent_size": 8}, "moe_latent_size=8"),
        ("mistral", {"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2}, "mixed"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
        ("gemma3:gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
        ("qwen3", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    ],
)
def test_variants_that_would_be_wrong_are_refused(
    family: str, options: dict[str, Any], why: str
) -> None:
    config = tiny_config(family)
    for name, value in options.items():
        setattr(text_config(config), name, value)
    with pytest.raises(SettingError, match=why):
        check_config(config, FAMILY)
