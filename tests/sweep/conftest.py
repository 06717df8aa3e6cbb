"""The checkpoints that are swept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import save_checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_checkpoints(tmp_path_factory, ("mistral", "mamba2"))
