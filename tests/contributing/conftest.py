"""The examples of CONTRIBUTING.md as files of the working directory, and a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import save_checkpoint
from tests.examples import write_examples
from tests.quick import only_toys_alone


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys only, and no look at the machine."""
    only_toys_alone(monkeypatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mistral"), "mistral")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples as files of the working directory."""
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
