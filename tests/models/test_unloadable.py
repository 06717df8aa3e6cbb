"""Checkpoints that cannot be loaded: one line that says what is wrong, whatever was raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dynamax_lm
from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.checkpoint import unreachable
from dynamax_lm.decoders.pretrained import load_pretrained
from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral
from tests.checkpoints import save_checkpoint


def refused(folder: Path | str, *words: str, model: Any = DynamaxMistral) -> None:
    for load in (
        lambda: model(pretrained=str(folder)),
        lambda: load_pretrained(model.ARCHITECTURE.model, {"pretrained": str(folder)}, "cpu"),
        lambda: dynamax_lm.load(str(folder)),
    ):
        with pytest.raises(SettingError) as caught:
            load()
        line = str(caught.value)
        assert "\n" not in line
        for word in (str(folder), *words):
            assert word in line


def test_pickled_weights_alone_are_named(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "mistral")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, "no model.safetensors", "pytorch_model.bin may run code")


def test_a_checkpoint_of_state_spaces_is_told_where_converted_ones_are(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "mamba2")
    (folder / "config.json").write_text(json.dumps({"d_model": 768, "n_layer": 24}))
    refused(folder, "not in transformers' format", "AntonV/mamba2-130m-hf", model=DynamaxMamba)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-99]
        ),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "config.json").write_text('{"model_type": "mistral"'),
        lambda folder: edit(folder, hidden_size="wide"),
        lambda folder: edit(folder, num_attention_heads=0),
        lambda folder: edit(folder, num_hidden_layers=None),
        lambda folder: edit(folder, rope_parameters=[1]),
        lambda folder: edit(folder, vocab_size=2.5),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "tokenizer.json").write_text("["),
    ],
    ids=[
        *("cut weights", "empty weights", "cut config", "width", "heads", "layers", "rope"),
        "vocabulary",
        *("tokenizer", "cut tokenizer"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, harm: Any) -> None:
    folder = save_checkpoint(tmp_path, "mistral")
    harm(folder)
    refused(folder, "cannot be loaded")


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_gated_repository_says_what_to_do() -> None:
    class GatedRepoError(OSError):
        """As the hub's client has it."""

    cause = GatedRepoError("401 Client Error")
    error = OSError("You are trying to access a gated repo.")
    error.__cause__ = cause
    line = str(unreachable("mistralai/Mistral-7B-v0.3", error))
    assert "accept its terms at https://huggingface.co/mistralai/Mistral-7B-v0.3" in line
    assert "hf auth login" in line
