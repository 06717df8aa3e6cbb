"""Backbones, texts and interruptions for the tests of head training."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from dynamax_lm.heads.train.trainer import Trainer
from tests.checkpoints import save_checkpoint
from tests.heads.train.training_runs import MODELS


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("backbones")
    return {model: str(save_checkpoint(root / kind, kind)) for model, kind in MODELS.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    draw = random.Random(0)
    words = ["the", "old", "river", "ran", "under", "seven", "bridges", "and", "home"]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=30))}) for _ in range(40)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def stop_after(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int, Callable[[], object]], Callable[[], None]]:
    """Make something happen after a step; what is returned undoes it."""

    def arrange(step: int, act: Callable[[], object]) -> Callable[[], None]:
        before = Trainer._one_step

        def after(self: Trainer) -> Any:
            losses = before(self)
            if self.step == step:
                act()
            return losses

        monkeypatch.setattr(Trainer, "_one_step", after)
        return lambda: monkeypatch.setattr(Trainer, "_one_step", before)

    return arrange
