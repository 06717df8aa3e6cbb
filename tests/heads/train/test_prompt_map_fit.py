"""The command that fits prompt maps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.prompt_maps import PromptMapBank
from dynamax_lm.heads.train.prompt_maps import main
from tests.checkpoints import save_checkpoint
from tests.lm_requests import PROMPTS, ours, texts


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {kind: save_checkpoint(root / kind, kind) for kind in ("mistral", "mamba2")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with answers, whose tokens are no prompt's, and plain texts."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("data") / "data.jsonl"
    words = ["the", "old", "river", "ran", "under", "seven", "bridges", "and", "home"]
    lines = [
        {"prompt": " ".join(draw.choices(words, k=20)), "answer": " unread" * 40} for _ in range(40)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def fit(checkpoint: Path, data: Path, out: Path, *more: Any) -> PromptMapBank:
    model = "dynamax-mamba" if checkpoint.name == "mamba2" else "dynamax-mistral"
    given = ("--model", model, "--model_args", f"pretrained={checkpoint},dtype=float32")
    common = ("--data", data, "--output_path", out, "--held_out", 0.3, "--device", "cpu")
    main([str(one) for one in (*given, *common, "--prompt_exit", 1, *more)])
    return PromptMapBank.load(out)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("more", [(), ("--map", "low_rank", "--rank", 3, "--layers_per_map", 2)])
def test_maps_are_nearer_to_the_layers_inputs_and_are_taken_by_the_model(
    kind: str, more: tuple[Any, ...], checkpoints: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    maps = fit(checkpoints[kind], data, tmp_path / "maps", *more)
    config = maps.config
    assert [one["layer"] for one in config.errors] == [2, 3]
    assert all(0 < one["mapped"] < one["unmapped"] for one in config.errors)
    assert config.data["tokens"] > config.width
    card = (tmp_path / "maps" / "README.md").read_text()
    assert f"{config.errors[0]['mapped']:.4f}" in card
    assert all(f"--{name} " in card for name in ("prompt_exit", "held_out", "data"))
    model = ours(kind, checkpoints[kind], prompt_exit=1, prompt_maps=str(tmp_path / "maps"))
    assert len(model.generate_until(texts(PROMPTS[:1]))) == 1
    with pytest.raises(SettingError, match="holds finished maps"):
        fit(checkpoints[kind], data, tmp_path / "maps")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--prompt_exit", 3), "--prompt_exit=3: give a layer in 1..2"),
        (("--prompt_exit", 0), "--prompt_exit=0"),
        (("--layers_per_map", 0), "--layers_per_map=0"),
        (("--map", "low_rank", "--rank", 900), "--rank=900"),
        (("--ridge", 0), "--ridge=0"),
        (("--held_out", 1), "--held_out=1"),
        (("--window", 1), "--window=1"),
        (("--window", 2, "--batch_size", 2, "--tokens", 2), "too few for maps"),
        (("--data", "nowhere.jsonl"), "no such file"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(
    more: tuple[Any, ...],
    words: str,
    checkpoints: dict[str, Path],
    data: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        fit(checkpoints["mistral"], data, tmp_path / "maps", *more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "maps").exists()
