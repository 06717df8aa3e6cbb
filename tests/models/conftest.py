"""Checkpoints and measures for the tests of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import save_checkpoints
from tests.lm_requests import KINDS


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small checkpoint of each kind; a test that changes one makes its own."""
    return save_checkpoints(tmp_path_factory, KINDS)


@pytest.fixture
def named(tmp_path: Path) -> Any:
    """``named(source)``: the source in a file, and its class ``Ours`` as an argument names it."""

    def write(source: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(source)
        return f"{path}:Ours"

    return write
