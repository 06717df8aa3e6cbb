"""A checkpoint that would run on random numbers is refused by the name of its tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.pretrained import load_pretrained
from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral
from tests.checkpoints import save_checkpoint

MODELS = {"mistral": DynamaxMistral, "mamba2": DynamaxMamba}
KINDS = sorted(MODELS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_tensor_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    folder = save_checkpoint(tmp_path, kind)
    file = folder / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if ".layers.2." in name)
    save_file({n: t for n, t in weights.items() if n != lost}, file, metadata={"format": "pt"})
    with pytest.raises(SettingError, match=f"files lack .*{lost.partition('.')[2]}"):
        MODELS[kind](pretrained=str(folder))
    with pytest.raises(SettingError, match="files lack"):
        load_pretrained(MODELS[kind].ARCHITECTURE.model, {"pretrained": str(folder)}, "cpu")


def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "mistral")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 48}))
    with pytest.raises(SettingError, match=r"mlp\.\w+_proj.* another shape"):
        DynamaxMistral(pretrained=str(folder), ignore_mismatched_sizes=True)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    folder = save_checkpoint(tmp_path, kind)
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights[next(name for name in weights if ".layers.1." in name)].view(-1)[-1] = float("inf")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SettingError, match=r"layers\.1\..*NaN or infinite"):
        MODELS[kind](pretrained=str(folder))


@pytest.mark.parametrize(
    ("size", "value"), [("num_attention_heads", 10**6), ("num_hidden_layers", 10**6)]
)
def test_a_configuration_of_far_more_weights_than_the_files_hold_takes_no_memory(
    tmp_path: Path, size: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tmp_path, "mistral")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {size: value}))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", unexpected)
    with pytest.raises(SettingError, match=r"config.json .* hold [0-9,]+"):
        DynamaxMistral(pretrained=str(folder))
    with pytest.raises(SettingError, match=r"config.json .* hold [0-9,]+"):
        load_pretrained("dynamax-mistral", {"pretrained": str(folder)}, "cpu")


def test_a_large_number_that_is_no_size_is_no_fault(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "mistral")
    path = folder / "config.json"
    changed = json.loads(path.read_text()) | {"max_position_embeddings": 10**6}
    path.write_text(json.dumps(changed))
    DynamaxMistral(pretrained=str(folder))


def unexpected(*args: object, **options: object) -> None:
    raise AssertionError("weights are allocated")


def test_a_checkpoint_of_no_layers_is_refused_by_its_file(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "mistral")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 0}))
    with pytest.raises(SettingError, match=r"config\.json: num_hidden_layers=0"):
        DynamaxMistral(pretrained=str(folder))
