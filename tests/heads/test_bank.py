"""Heads as files: they round-trip, and whatever is cut, changed or foreign is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads import ExitHeads, read_config, write_config
from dynamax_lm.heads.fingerprint import fingerprint
from tests.builders import make_config, random_model
from tests.heads.builders import heads_config, heads_of, kinds, random_heads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_heads(heads_config(translator="low_rank")).save_pretrained(tmp_path / "heads")
    return tmp_path / "heads"


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(SettingError) as caught:
        ExitHeads.from_pretrained(folder)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line


@settings(max_examples=25)
@given(options=kinds(), seed=st.integers(0, 99))
def test_heads_round_trip(
    options: dict[str, Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("heads") / "mine"
    heads = random_heads(heads_config(**options), seed)
    heads.save_pretrained(folder, card="# Card\n")
    again = ExitHeads.from_pretrained(folder)
    assert again.config == heads.config
    assert again.card == "# Card\n"
    assert not again.training
    ours, theirs = heads.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_translators_begin_at_the_identity() -> None:
    for translator in ("identity", "low_rank", "affine"):
        heads = ExitHeads(heads_config(translator=translator))
        for dtype in (torch.float32, torch.bfloat16):
            hidden = torch.randn(3, 16).to(dtype)
            assert torch.equal(heads.translate(4, hidden), hidden)
            assert heads.translate(4, hidden).dtype == dtype


def test_heads_without_a_classifier_only_translate(tmp_path: Path) -> None:
    heads = random_heads(heads_config("none", translator="affine"))
    heads.save_pretrained(tmp_path / "heads")
    again = ExitHeads.from_pretrained(tmp_path / "heads")
    hidden = torch.randn(2, 16)
    assert torch.equal(again.translate(3, hidden), heads.translate(3, hidden))
    assert again.classifier_flops(3) == 0 < again.translator_flops(3)


def test_saving_again_replaces_and_leaves_other_files(folder: Path) -> None:
    (folder / "log.jsonl").write_text("{}\n")
    other = random_heads(heads_config("linear"), 5)
    other.save_pretrained(folder)
    assert ExitHeads.from_pretrained(folder).config == other.config
    assert (folder / "log.jsonl").exists()


def test_a_full_disk_leaves_the_heads_that_were_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "config" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SettingError, match="No space left"):
        random_heads(heads_config("linear")).save_pretrained(folder)
    with pytest.raises(SettingError, match="No space left"):
        random_heads(heads_config("linear")).save_pretrained(folder.parent / "new")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (folder.parent / "new").exists()


def test_a_certificate_is_written_without_the_tensors(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    write_config(folder, replace(read_config(folder), certificate={"threshold": 0.5}))
    assert ExitHeads.from_pretrained(folder).config.certificate == {"threshold": 0.5}
    assert (folder / "model.safetensors").read_bytes() == weights


def test_the_hub_gets_the_same_three_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, bytes] = {}

    def create(api: Any, *, repo_id: str, **options: Any) -> Any:
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload(api: Any, *, folder_path: Path, **options: Any) -> str:
        sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
        return "https://huggingface.co/me/heads/commit/1"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    ExitHeads.from_pretrained(folder).push_to_hub("me/heads")
    assert sent == {path.name: path.read_bytes() for path in folder.iterdir()}


# --- what is refused -----------------------------------------------------------------------------


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def garble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04K\x07.")  # a pickle


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, ("model.safetensors", "cut")),
        (flip, ("model.safetensors", "sha256")),
        (garble, ("model.safetensors", "cut")),
        (lambda folder: (folder / "model.safetensors").unlink(), ("model.safetensors",)),
        (lambda folder: (folder / "config.json").unlink(), ("config.json",)),
        (lambda folder: (folder / "config.json").write_text("{"), ("config.json", "JSON")),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\xff"), ("config.json",)),
    ],
)
def test_spoilt_files_are_refused(
    folder: Path, spoil: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    spoil(folder)
    refused(folder, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.popitem(), ("lacks",)),
        (lambda tensors: tensors.update(stranger=torch.zeros(1)), ("unknown", "stranger")),
        (
            lambda tensors: tensors.update({"classifiers.3.out.weight": torch.zeros(1, 3)}),
            ("classifiers.3.out.weight", "[1, 3]"),
        ),
        (
            lambda tensors: tensors.update(
                {"classifiers.3.out.bias": torch.zeros(1, dtype=torch.float16)}
            ),
            ("classifiers.3.out.bias", "float16"),
        ),
        (
            lambda tensors: tensors["classifiers.3.out.bias"].fill_(torch.nan),
            ("classifiers.3.out.bias", "finite"),
        ),
    ],
)
def test_other_tensors_are_refused_even_with_the_right_digest(
    folder: Path, change: Callable[[dict[str, Any]], object], words: tuple[str, ...]
) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    given = json.loads((folder / "config.json").read_text())
    given["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(given))
    refused(folder, *words)


# --- whose heads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mistral", "llama", "mamba2"])
def test_heads_know_their_backbone(kind: str) -> None:
    model = random_model(kind, 4)
    heads = heads_of(model, (1, 2))
    heads.check_backbone(model.config, model.get_output_embeddings().weight)
    low = model.get_output_embeddings().weight.to(torch.bfloat16)
    heads.check_backbone(model.config, low)
    twin = random_model(kind, 4, seed=1)
    with pytest.raises(SettingError, match="unembedding") as caught:
        heads.check_backbone(model.config, twin.get_output_embeddings().weight)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("mamba2", {}, "architecture"),
        ("mistral", {"layers": 5}, "number of layers"),
        ("mistral", {"hidden_size": 32}, "width"),
        ("mistral", {"vocab_size": 62}, "vocabulary"),
    ],
)
def test_a_backbone_of_another_shape_is_refused(
    kind: str, options: dict[str, Any], word: str
) -> None:
    model = random_model("mistral", 4)
    heads = heads_of(model, (1, 2))
    other = make_config(kind, **{"layers": 4} | options)
    with pytest.raises(SettingError, match=word):
        heads.check_backbone(other, model.get_output_embeddings().weight)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.data())
def test_a_fingerprint_survives_formats_and_nothing_else(
    rows: int, width: int, seed: int, data: st.DataObject
) -> None:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    known = fingerprint(weight)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert fingerprint(weight.to(dtype)) == known
    changed = weight.clone()
    changed[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, width - 1))] *= -1
    assert fingerprint(changed) != known
    assert rows == width or fingerprint(weight.reshape(width, rows)) != known


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("ffn", "ffn_width"),
        ("mamba", "conv_kernel"),
        ("mamba", "state_size"),
        ("mamba_depth", "conv_kernel"),
        ("mamba", "expand"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_they_are_allocated(
    tmp_path: Path, kind: str, size: str
) -> None:
    """No machine has so much memory: allocating first would fail in another way."""
    random_heads(heads_config(classifier=kind)).save_pretrained(tmp_path)
    write_config(tmp_path, replace(read_config(tmp_path), **{size: 10**12}))
    refused(tmp_path, "configuration says")
