"""Every progress bar says what is being done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dynamax_lm
from dynamax_lm.models import answering
from dynamax_lm.models.runner import EngineRunner
from tests.checkpoints import save_checkpoint


class Bar:
    """Remembers the descriptions of bars."""

    said: list[str]

    def __init__(self, *args: Any, desc: str, **options: Any) -> None:
        self.said.append(desc)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, count: int = 1) -> None:
        return None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mistral"), "mistral")


def test_bars_name_the_mode_and_the_purpose(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bar.said = []
    monkeypatch.setattr(answering, "tqdm", Bar)
    model = dynamax_lm.load(str(checkpoint), dtype="float32", exit_layers=[2], threshold=0.5)
    for mode in ("exit", "full", "lossless"):
        model.change(mode=mode)
        model.generate("a", max_gen_toks=1)
        model.score("a", "b")
    with model.lm.answered_by(EngineRunner(), "to certify threshold 0.5"):
        model.generate("a", max_gen_toks=1)
    model.generate("a", max_gen_toks=1)
    assert Bar.said == [
        *("Generating with early exits", "Scoring with early exits"),
        *("Generating at full depth", "Scoring at full depth"),
        *("Generating losslessly", "Scoring at full depth"),
        *("Generating to certify threshold 0.5", "Generating losslessly"),
    ]
