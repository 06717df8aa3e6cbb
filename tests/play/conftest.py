"""Random checkpoints for the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import save_checkpoint


@pytest.fixture(scope="session", params=["mistral", "mamba2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp(request.param), request.param)
