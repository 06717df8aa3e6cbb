"""What a model cannot honour is refused by name, in one line, before weights load if it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from dynamax_lm.common.errors import SettingError
from tests.lm_requests import no_weights, ours, texts


@pytest.mark.parametrize(
    ("gen_kwargs", "named"),
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"do_sample": True, "temperature": 0}, "temperature=0"),
        ({"do_sample": True, "temperature": -1.0}, "temperature=-1.0"),
        ({"do_sample": True, "temperature": 1.0, "top_p": "most"}, "top_p='most'"),
        ({"temperature": "warm"}, "temperature='warm'"),
        ({"max_gen_toks": "ten"}, "max_gen_toks='ten'"),
        ({"max_length": "ten"}, "max_length='ten'"),
        ({"max_length": 2}, "max_length=2 in gen_kwargs counts the prompt too, and one has 2"),
        ({"repetition_penalty": -1.0}, "repetition_penalty=-1.0"),
        ({"num_return_sequences": 2}, "num_return_sequences=2"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6"),
        ({"temprature": 0.5}, "'temperature'"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    gen_kwargs: dict[str, Any], named: str, folders: dict[str, Path]
) -> None:
    model = ours("mistral", folders["mistral"])
    with pytest.raises(SettingError, match=named) as caught:
        model.generate_until(texts(["a"], **gen_kwargs), disable_tqdm=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("mistral", {"confidence": "sure"}, "sure"),
        ("mistral", {"confidence": "top_probb"}, "top_prob"),
        ("mistral", {"threshold": 1.5}, "1.5"),
        ("mistral", {"threshold": "abc"}, "abc"),
        ("mistral", {"threshold": float("nan")}, "nan"),
        ("mistral", {"exit_layers": 0}, "0"),
        ("mistral", {"exit_layers": "[2,4]"}, "4"),
        ("mistral", {"skipped_state": "freeze"}, "silent hole"),
        ("mamba2", {"skipped_state": "copy_kv"}, "propagate, freeze or recompute"),
        ("mistral", {"skipped_state": "nowhere.py:Ours"}, "working directory"),
        ("mistral", {"mode": "lossless", "skipped_state": "propagate"}, "leave it out"),
        ("mistral", {"treshold": 0.5}, "threshold"),
        ("mistral", {"use_safetensors": False}, "safetensors"),
        ("mistral", {"attn_implementation": "flash_attention_2"}, "flash_attention_2"),
        ("mistral", {"tp_plan": "auto"}, "tp_plan"),
        ("mistral", {"backend": "seq2seq"}, "seq2seq"),
        ("mistral", {"batch_size": 0}, "at least 1, or auto"),
    ],
)
def test_a_wrong_value_is_refused_before_weights_load(
    kind: str,
    options: dict[str, Any],
    named: str,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HFLM, "_create_model", no_weights)
    with pytest.raises(SettingError, match=named) as caught:
        ours(kind, folders[kind], **options)
    assert "\n" not in str(caught.value)


def test_a_trace_folder_that_cannot_be_written_is_refused_before_weights_load(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HFLM, "_create_model", no_weights)
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingError, match="trace_dir") as caught:
            ours("mistral", folders["mistral"], trace_dir=str(folder))
        assert "\n" not in str(caught.value)


def test_another_architecture_is_sent_to_its_own_model(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HFLM, "_create_model", no_weights)
    with pytest.raises(SettingError, match="use --model dynamax-mamba"):
        ours("mistral", folders["mamba2"])
    with pytest.raises(SettingError, match="use --model dynamax-mistral"):
        ours("mamba2", folders["mistral"])


@pytest.mark.parametrize(
    "name", ["./no/such/folder", "/nowhere/at/all", "mistralai/Mistral-7B-v0.3"]
)
def test_what_cannot_be_had_is_named_and_tiny_is_offered(name: str) -> None:
    with pytest.raises(SettingError, match="tiny") as caught:
        ours("mistral", Path(name) if name.startswith("/") else name)  # type: ignore[arg-type]
    assert name.removeprefix("./") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(folders["mistral"], folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(SettingError, match="safetensors"):
        ours("mistral", folder)
