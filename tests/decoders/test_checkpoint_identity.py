"""A loaded checkpoint's identity: equal for equal contents, another for any change."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders import checkpoint_identity
from dynamax_lm.decoders.checkpoint_identity import digest_weights, identity_of
from tests.builders import random_model
from tests.checkpoints import byte_tokenizer, save_checkpoint

KINDS = ["mistral", "llama", "mamba2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("identity"), "mistral")


def loaded(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return identity_of(model, AutoTokenizer.from_pretrained(folder))


@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_changed_number_changes_the_digest(data: st.DataObject, kind: str) -> None:
    """Wherever it is: the digest reads every byte."""
    model = random_model(kind)
    before = digest_weights(model)
    assert digest_weights(copy.deepcopy(model)) == before
    parameters = [one for one in model.parameters() if one.numel()]
    chosen = data.draw(st.sampled_from(range(len(parameters))))
    place = data.draw(st.integers(0, parameters[chosen].numel() - 1))
    with torch.no_grad():
        flat = parameters[chosen].view(-1)
        flat[place] = torch.nextafter(flat[place], flat[place] + 1)
    assert digest_weights(model) != before


def test_the_pieces_that_are_read_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("mistral")
    whole = digest_weights(model)
    monkeypatch.setattr(checkpoint_identity, "_AT_ONCE", 64)
    assert digest_weights(model) == whole


def test_number_formats_are_told_apart() -> None:
    formats = (torch.float32, torch.bfloat16, torch.float16)
    assert len({digest_weights(random_model("llama", dtype=dtype)) for dtype in formats}) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_none_is_refused_by_its_tensors_name(kind: str, value: float) -> None:
    model = random_model(kind)
    name, parameter = list(model.named_parameters())[-1]
    with torch.no_grad():
        parameter.view(-1)[-1] = value
    with pytest.raises(SettingError, match=f"{name} holds numbers that are NaN or infinite"):
        digest_weights(model)


def test_loading_again_gives_the_same_identity(folder: Path) -> None:
    assert loaded(folder) == loaded(folder)


@pytest.mark.parametrize(
    ("file", "change", "part"),
    [
        ("config.json", {"rms_norm_eps": 0.5}, "config"),
        ("config.json", {"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}, "config"),
        ("config.json", {"sliding_window": 4}, "config"),
        ("generation_config.json", {"repetition_penalty": 1.8}, "generation"),
        ("generation_config.json", {"suppress_tokens": [9, 10]}, "generation"),
        ("tokenizer_config.json", {"add_bos_token": True, "chat_template": "x"}, "tokenizer"),
    ],
)
def test_a_changed_file_changes_its_part_alone(
    tmp_path: Path, file: str, change: dict[str, Any], part: str
) -> None:
    folder = save_checkpoint(tmp_path, "mistral")
    before = loaded(folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    after = loaded(folder)
    differing = {name for name in before._fields if getattr(before, name) != getattr(after, name)}
    assert differing == {part}
    assert after.digest != before.digest


def test_another_vocabulary_is_another_tokenizer_and_its_calls_are_not() -> None:
    plain = byte_tokenizer()
    plain.pad_token = plain.eos_token
    before = checkpoint_identity.digest_tokenizer(plain)
    plain(["a", "long text"], padding=True, truncation=True, max_length=3)
    assert checkpoint_identity.digest_tokenizer(plain) == before
    assert checkpoint_identity.digest_tokenizer(byte_tokenizer(bos=False)) != before


def test_names_are_not_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = loaded(folder)
    monkeypatch.chdir(folder.parent)
    assert loaded(Path(folder.name)) == here


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_weights_are_refused(kind: str) -> None:
    model = random_model(kind)
    layers = (getattr(model, "model", None) or model.backbone).layers
    layers[1].to("meta")
    with pytest.raises(SettingError, match=r"layers\.1\..* is offloaded.*parallelize"):
        digest_weights(model)
