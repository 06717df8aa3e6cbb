"""Models with trained heads, end to end: settings, refusals, results, caches."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dynamax_lm.common.certificate.setup import difference
from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.checkpoint import ATTENTION, embedded_model
from dynamax_lm.harness.responses import record_of
from dynamax_lm.harness.setup import setting_of
from dynamax_lm.heads import ExitHeads, read_config, shipped, write_config
from dynamax_lm.models import trained
from dynamax_lm.models.lm import DynamaxMistral
from dynamax_lm.settings import parse_settings
from tests.certify.certificates import make_certificate
from tests.checkpoints import save_checkpoint, save_with, with_own_copy
from tests.heads.builders import heads_of
from tests.lm_requests import PROMPTS, no_weights, ours, pairs, texts

EXITS = (1, 2, 3)
KINDS = ["mistral", "mamba2"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A checkpoint and its heads, by kind."""

    def save(model: Any, root: Path) -> Path:
        heads_of(model, EXITS, 2, translator="low_rank").save_pretrained(root / "heads")
        return root / "heads"

    return save_with(tmp_path_factory, KINDS, save)


@pytest.fixture
def own(places: dict[str, tuple[Path, Path]], tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and heads of its own that a test may spoil."""
    return with_own_copy(places["mistral"], tmp_path)


def depths(model: Any) -> set[int]:
    found: set[int] = set()
    for answer in model.generate_until(texts(PROMPTS), disable_tqdm=True):
        record = record_of(answer)
        assert record is not None
        found.update(used for trace in record.traces for used in trace.layers_used)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_heads_decide_and_are_shown(kind: str, places: dict[str, tuple[Path, Path]]) -> None:
    checkpoint, heads = places[kind]
    model = ours(kind, checkpoint, heads=str(heads), threshold=0.5)
    assert (model.settings.confidence, model.settings.exit_layers) == ("head", EXITS)
    assert len(depths(model)) > 1
    assert len(model.loglikelihood(pairs(), disable_tqdm=True)) == len(pairs())
    block = model.get_model_info()["early_exit"]
    json.dumps(block)
    assert block["heads"]["classifier"] == "mamba"
    assert block["heads"]["fingerprint"] == read_config(heads).identity
    assert block["settings"]["heads"] == str(heads)
    assert block["settings"]["heads_fingerprint"] == read_config(heads).identity


@pytest.mark.parametrize("kind", KINDS)
def test_the_bill_has_the_heads(kind: str, places: dict[str, tuple[Path, Path]]) -> None:
    """One token that leaves at the first exit: its classifier is a check, its translator is not."""
    checkpoint, folder = places[kind]
    model = ours(kind, checkpoint, heads=str(folder), threshold=0.0)
    heads = ExitHeads.from_pretrained(folder)
    text = model.generate_until(texts(PROMPTS[:1], max_gen_toks=1), disable_tqdm=True)[0]
    record = record_of(text)
    assert record is not None
    assert record.bill.checks == heads.classifier_flops(1)
    width, vocabulary = heads.config.width, heads.config.vocabulary
    emission = 4 * width + 2 * width * vocabulary
    assert record.bill.projection == emission + heads.translator_flops(1)


def test_settings_change_with_heads_and_back(places: dict[str, tuple[Path, Path]]) -> None:
    checkpoint, heads = places["mistral"]
    model = ours("mistral", checkpoint, threshold=0.5)
    plain = model.fingerprint
    model.change(heads=str(heads))
    fresh = ours("mistral", checkpoint, heads=str(heads), threshold=0.5)
    assert model.fingerprint == fresh.fingerprint != plain
    asked = texts(PROMPTS)
    assert [record_of(t) for t in model.generate_until(asked)] == [
        record_of(t) for t in fresh.generate_until(asked)
    ]
    for wrong in (
        {"heads": "no/such/folder"},
        {"exit_layers": [1, 2, 3], "threshold": "certified"},
    ):
        with pytest.raises(SettingError):
            model.change(**wrong)
    assert model.fingerprint == fresh.fingerprint
    model.change(heads=None)
    assert model.fingerprint == plain


def test_a_certificate_is_the_default_threshold(own: tuple[Path, Path]) -> None:
    checkpoint, heads = own
    certificate = make_certificate().to_json()  # for confidence=head
    before = ours("mistral", checkpoint, heads=str(heads), threshold=certificate["threshold"])
    write_config(heads, replace(read_config(heads), certificate=certificate))
    after = ours("mistral", checkpoint, heads=str(heads))
    assert after.settings.threshold == certificate["threshold"] == 0.9
    block = after.get_model_info()["early_exit"]
    assert block["certificate"] == certificate | {"applies": {}, "setups": {}}
    assert "certificate" not in block["heads"], "it is said once"
    assert after.fingerprint == before.fingerprint, "a certificate changes no number"


@pytest.mark.parametrize(
    "broken",
    [
        {"threshold": 0},
        {"schema": 1, "threshold": 0.0, "setting": {"confidence": "head"}},
        make_certificate({0.95: 0, 0.5: 0}).to_json() | {"threshold": 0.0},
        make_certificate({0.95: 0, 0.5: 0}).to_json() | {"risk": 0.01},
    ],
)
def test_a_certificate_that_cannot_be_believed_sets_no_threshold(
    broken: dict[str, Any], own: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, heads = own
    write_config(heads, replace(read_config(heads), certificate=broken))
    with caplog.at_level(logging.WARNING):
        model = ours("mistral", checkpoint, heads=str(heads))
    assert model.settings.threshold == 0.9
    lines = [r.getMessage() for r in caplog.records if "no threshold is taken" in r.getMessage()]
    assert lines
    with pytest.raises(SettingError, match="threshold=certified"):
        ours("mistral", checkpoint, heads=str(heads), threshold="certified")


def test_a_certificate_is_for_the_arguments_that_change_answers(own: tuple[Path, Path]) -> None:
    checkpoint, _ = own
    plain = setting_of(ours("mistral", checkpoint))
    assert plain.pretrained == str(checkpoint)
    same: list[dict[str, Any]] = [
        {"batch_size": 3, "parallelize": None},
        {"backend": "default", "revision": "main", "trust_remote_code": False},
        {"attn_implementation": "sdpa", "truncation": False, "use_fast_tokenizer": "True"},
    ]
    for given in same:
        assert difference(plain, setting_of(ours("mistral", checkpoint, **given))) is None
    for given in ({"max_length": 32}, {"add_bos_token": True}, {"attn_implementation": "eager"}):
        reason = difference(plain, setting_of(ours("mistral", checkpoint, **given)))
        assert next(iter(given)) in str(reason)


def test_a_certificate_is_for_weights_not_for_their_folders_name(
    own: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoint, _ = own
    plain = setting_of(ours("mistral", checkpoint))
    monkeypatch.chdir(checkpoint.parent)
    for name in (f"{checkpoint}/", f"./{checkpoint.name}", f"{checkpoint}/../{checkpoint.name}"):
        assert difference(plain, setting_of(ours("mistral", Path(name)))) is None
    changed = tmp_path / "changed"
    shutil.copytree(checkpoint, changed)
    file = changed / "model.safetensors"
    weights = load_file(file)
    for middle in [name for name in weights if ".layers.2." in name]:
        other = dict(weights)
        other[middle] = weights[middle].clone()
        other[middle].view(-1)[-1] += 1
        save_file(other, file, metadata={"format": "pt"})
        reason = difference(plain, setting_of(ours("mistral", changed)))
        assert "weights" in str(reason), middle


def test_recalibrated_heads_are_other_heads(own: tuple[Path, Path]) -> None:
    checkpoint, heads = own
    before = ours("mistral", checkpoint, heads=str(heads)).fingerprint
    calibration = {"2": {"scale": 2.0, "bias": -0.5}}
    write_config(heads, replace(read_config(heads), calibration=calibration))
    assert ours("mistral", checkpoint, heads=str(heads)).fingerprint != before


def is_refused(options: dict[str, Any], word: str, places: dict[str, tuple[Path, Path]]) -> None:
    """In one line with ``word``; ``{mistral}`` in an option stands for the folder of that kind."""
    folders = {kind: str(folder) for kind, (_, folder) in places.items()}
    given = {
        name: value.format(**folders) if isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(SettingError, match=word) as caught:
        ours("mistral", places["mistral"][0], **given)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"heads": "./nowhere"}, "no such folder"),
        ({"heads": "a/b/c"}, "no such folder"),
        ({"heads": "nobody/no-such-heads"}, "hub"),
        ({"heads": 7}, "path of a folder"),
        ({"exit_layers": "1+2", "heads": "{mamba2}"}, "architecture"),
        ({"heads": "{mistral}", "threshold": "certified"}, "certified"),
        ({"confidence": "head"}, "needs trained heads"),
        ({"threshold": "certified"}, "needs heads"),
    ],
)
def test_wrong_heads_are_refused_before_weights_load(
    options: dict[str, Any],
    word: str,
    places: dict[str, tuple[Path, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HFLM, "_create_model", no_weights)
    is_refused(options, word, places)


def test_another_backbone_of_the_same_shape_is_refused(
    places: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    twin = save_checkpoint(tmp_path / "twin", "mistral", seed=1)
    with pytest.raises(SettingError, match="unembedding") as caught:
        ours("mistral", twin, heads=str(places["mistral"][1]))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_same_backbone_in_other_numbers_is_taken(
    dtype: str, places: dict[str, tuple[Path, Path]]
) -> None:
    checkpoint, heads = places["mistral"]
    model = ours("mistral", checkpoint, heads=str(heads), dtype=dtype, threshold=0.5)
    assert depths(model) <= {1, 2, 3, 4}


def test_mixed_precision_runs(places: dict[str, tuple[Path, Path]]) -> None:
    checkpoint, heads = places["mamba2"]
    options = {"heads": str(heads), "threshold": 0.5, "mixed_precision_dtype": "bfloat16"}
    assert depths(ours("mamba2", checkpoint, **options)) <= {1, 2, 3, 4}


def test_shipped_heads_are_the_default_of_tiny_alone(
    own: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, heads = own
    heads.rename(tmp_path / "tiny-mistral")
    monkeypatch.setattr(shipped, "_PLACES", (tmp_path / "nothing", tmp_path))
    config = AutoModelForCausalLM.from_pretrained(checkpoint).config

    def chosen(pretrained: str, **given: Any) -> str | None:
        found = trained.choose_heads(
            parse_settings(given),
            embedded=embedded_model(pretrained, ATTENTION),
            config=config,
        )
        return None if found is None else found.facts.name

    assert chosen("tiny") == chosen("tiny-mistral") == "tiny-mistral"
    assert chosen("tiny", heads="none") is None
    assert chosen("tiny", heads=None) is None
    assert chosen(str(checkpoint)) is None
    assert chosen(str(checkpoint), heads="tiny-mistral") == "tiny-mistral"


def test_shipped_heads_stand_aside_for_exits_that_they_do_not_have() -> None:
    """Nobody asked for them, so they are no reason to refuse a run; asked for, they are."""
    inside = DynamaxMistral(pretrained="tiny", exit_layers=[8, 12])
    assert inside.settings.heads == "tiny-mistral"
    assert inside.settings.exit_layers == (8, 12)
    inside.change(exit_layers=[4, 8])
    assert (inside.settings.heads, inside.settings.confidence) == (None, "top_prob")
    with pytest.raises(SettingError, match="no head after layer 4"):
        inside.change(heads="tiny-mistral")
