"""Fixtures of the tests of models and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def named(tmp_path: Path) -> Any:
    """``named(source)``: the source in a file, and its class ``Ours`` as an argument names it."""

    def write(source: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(source)
        return f"{path}:Ours"

    return write
