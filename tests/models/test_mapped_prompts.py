"""Models with prompt maps, end to end: settings, refusals, results, and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.responses import record_of
from dynamax_lm.harness.setup import setting_of
from dynamax_lm.heads.prompt_maps import PromptMapBank
from tests.checkpoints import save_checkpoint, save_with, with_own_copy
from tests.heads.builders import heads_of, maps_of
from tests.lm_requests import PROMPTS, no_weights, ours, texts
from tests.models.test_trained import is_refused

KINDS = ["mistral", "mamba2"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A checkpoint and maps of its first prompt exit, by kind."""

    def save(model: Any, root: Path) -> Path:
        maps_of(model, 1, 3).save(root / "maps", "# Random maps\n")
        heads_of(model, (1, 2)).save_pretrained(root / "heads")
        return root / "maps"

    return save_with(tmp_path_factory, KINDS, save)


@pytest.fixture
def own(places: dict[str, tuple[Path, Path]], tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and maps of its own that a test may spoil."""
    return with_own_copy(places["mistral"], tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_answer_are_billed_and_named(kind: str, places: dict[str, tuple[Path, Path]]) -> None:
    checkpoint, folder = places[kind]
    maps = PromptMapBank.load(folder)
    model = ours(kind, checkpoint, prompt_exit=1, threshold=1.0)
    asked = texts(PROMPTS)
    plain, named = model.generate_until(asked), setting_of(model).arguments
    before = model.fingerprint
    model.change(prompt_maps=str(folder))
    mapped = model.generate_until(asked)
    assert list(map(str, plain)) != list(map(str, mapped))
    for one, other in zip(plain, mapped, strict=True):
        first, second = record_of(one), record_of(other)
        assert first is not None
        assert second is not None
        (trace,) = second.traces
        extra = trace.prompt_tokens * maps.flops
        assert second.bill.prompt - first.bill.prompt == extra
        assert first.bill.prompt_saved - second.bill.prompt_saved == extra
    block = model.get_model_info()["early_exit"]
    json.dumps(block)
    assert block["settings"]["prompt_maps"] == block["prompt_maps"]["name"] == str(folder)
    fingerprints = block["settings"]["prompt_maps_fingerprint"], block["prompt_maps"]["fingerprint"]
    assert fingerprints == (maps.identity, maps.identity)
    assert block["costs"]["prompt_maps"] == maps.flops
    assert named == {"prompt_exit": "1"}
    assert setting_of(model).arguments == {"prompt_exit": "1", "prompt_maps": maps.identity}
    fresh = ours(kind, checkpoint, prompt_exit=1, threshold=1.0, prompt_maps=str(folder))
    assert fresh.fingerprint == model.fingerprint != before
    with pytest.raises(SettingError):
        model.change(prompt_maps="no/such/folder")
    assert model.fingerprint == fresh.fingerprint
    model.change(prompt_maps=None)
    assert model.fingerprint == before


def test_maps_in_another_folder_are_the_same_and_others_are_not(own: tuple[Path, Path]) -> None:
    checkpoint, folder = own
    given: dict[str, Any] = {"prompt_exit": 1, "threshold": 0.5}
    first = ours("mistral", checkpoint, **given, prompt_maps=str(folder)).fingerprint
    moved = folder.rename(folder.with_name("moved"))
    assert ours("mistral", checkpoint, **given, prompt_maps=str(moved)).fingerprint == first
    maps_of(AutoModelForCausalLM.from_pretrained(checkpoint), 1, 4).save(folder, "")
    assert ours("mistral", checkpoint, **given, prompt_maps=str(folder)).fingerprint != first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt_maps": "{mistral}"}, "give prompt_exit=K too"),
        ({"prompt_maps": "{mistral}", "prompt_exit": "none"}, "give prompt_exit=K too"),
        ({"prompt_maps": "{mistral}", "prompt_exit": 2}, "of prompt_exit=1, and the run's is 2"),
        ({"prompt_maps": "{mistral}", "prompt_exit": 4}, "of prompt_exit=1, and the run's is none"),
        ({"prompt_maps": "{mamba2}", "prompt_exit": 1}, "architecture"),
        ({"prompt_maps": "./nowhere", "prompt_exit": 1}, "no such folder"),
        ({"prompt_maps": "{mistral}/..", "prompt_exit": 1}, "is it a prompt maps folder"),
        ({"prompt_maps": "{mistral}/../heads", "prompt_exit": 1}, "prompt maps config.json lacks"),
        ({"heads": "{mistral}"}, "heads config.json lacks"),
        ({"prompt_maps": 7, "prompt_exit": 1}, "path of a folder"),
        ({"prompt_maps": "{mistral}", "prompt_exit": 1, "mode": "lossless"}, "lossless"),
        ({"prompt_maps": "x", "prompt_exit": 1, "layers": "a.py:B"}, "the checkpoint's own layers"),
    ],
)
def test_wrong_maps_are_refused_before_weights_load(
    options: dict[str, Any],
    words: str,
    places: dict[str, tuple[Path, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HFLM, "_create_model", no_weights)
    is_refused(options, words, places)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def other_tensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["maps.2.bias"] = tensors["maps.2.bias"][:-1].clone()
    save_file(tensors, path)
    change_config(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "is cut or no safetensors file"),
        (other_tensors, "maps.2.bias is"),
        (lambda folder: change_config(folder, weights_sha256="0"), "sha256 differs"),
        (lambda folder: change_config(folder, schema=2), "reads schema 1"),
        (lambda folder: change_config(folder, prompt_exit=3), "1..L-2"),
        (lambda folder: change_config(folder, translator="identity"), "affine, low_rank"),
        (lambda folder: change_config(folder, translator="low_rank"), "translator_rank=0"),
        (lambda folder: change_config(folder, group=0), "group=0"),
        (lambda folder: change_config(folder, group=2), "has unknown maps.3"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
    ],
)
def test_spoilt_files_are_one_line(
    own: tuple[Path, Path], spoil: Callable[[Path], object], words: str
) -> None:
    checkpoint, folder = own
    config = json.loads((folder / "config.json").read_text())
    if config["translator"] == "affine":  # a rank is of low-rank maps alone
        change_config(folder, translator_rank=0)
    spoil(folder)
    with pytest.raises(SettingError, match=words) as caught:
        ours("mistral", checkpoint, prompt_exit=1, prompt_maps=str(folder))
    assert len(str(caught.value).splitlines()) == 1
    assert "prompt maps" in str(caught.value)


def test_another_backbone_of_the_same_shape_is_refused(
    own: tuple[Path, Path], tmp_path: Path
) -> None:
    twin = save_checkpoint(tmp_path / "twin", "mistral", seed=1)
    with pytest.raises(SettingError, match="unembedding") as caught:
        ours("mistral", twin, prompt_exit=1, prompt_maps=str(own[1]))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_same_backbone_in_other_numbers_is_taken(dtype: str, own: tuple[Path, Path]) -> None:
    checkpoint, folder = own
    model = ours("mistral", checkpoint, dtype=dtype, prompt_exit=1, prompt_maps=str(folder))
    assert len(model.generate_until(texts(PROMPTS))) == len(PROMPTS)
