"""A place that cannot be written to is refused in one line, and asking makes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import writable_folder


@pytest.mark.parametrize("below", ["", "new", "new/further"])
def test_asking_makes_nothing(tmp_path: Path, below: str) -> None:
    assert writable_folder(str(tmp_path / below)) == tmp_path / below
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_looked_up_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert writable_folder("new/further") == Path("new/further")


@pytest.mark.parametrize("below", ["", "further/down"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(SettingError, match="taken is a file"):
        writable_folder(tmp_path / "taken" / below)


def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(SettingError, match="cannot be written to"):
        writable_folder(tmp_path / "new")
