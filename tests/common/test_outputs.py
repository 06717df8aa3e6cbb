"""Files are whole or absent; a place that cannot be written to is refused in one line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import (
    claimed,
    has_whole_lines,
    is_whole_json,
    replacing,
    writable_folder,
    write_bytes,
    write_files,
    write_json,
)


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


def test_a_link_to_nothing_and_an_empty_name_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "link", tmp_path / "link" / "below"):
        with pytest.raises(SettingError, match="link is a link to nothing"):
            writable_folder(path)
    for name in ("", " "):
        with pytest.raises(SettingError, match="--html: names no folder"):
            writable_folder(name, "--html")


def test_a_folder_has_one_writer_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    child = os.fork()
    if child == 0:
        with claimed(folder):
            signal.pause()
    while not folder.exists() or not refused(folder):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not refused(folder)
    assert list(folder.iterdir()) == []


def refused(folder: Path) -> bool:
    """Whether another process has claimed the folder."""
    try:
        with claimed(folder):
            return False
    except SettingError as error:
        return "another command is writing there" in str(error)


@pytest.mark.parametrize(
    ("content", "whole"),
    [(b'{"a": 1}\n{}\n', True), (b'{"a": 1}\n{"b"', False), (b"{}\n", False), (None, False)],
)
def test_cut_lines_and_missing_files_are_seen(
    tmp_path: Path, content: bytes | None, whole: bool
) -> None:
    if content is not None:
        (tmp_path / "a.jsonl").write_bytes(content)
    assert has_whole_lines(tmp_path / "a.jsonl", 2) == whole
    assert not is_whole_json(tmp_path / "a.jsonl") or content == b"{}\n"


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"path": tmp_path})
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def interrupted(path: Path) -> None:
    with replacing(path) as partial:
        if path.is_dir():
            partial.mkdir()
        (partial / "half" if path.is_dir() else partial).write_bytes(b"half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("there", [False, True])
def test_what_fails_half_way_changes_nothing(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "a"
    if there:
        path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"] * there


@pytest.mark.parametrize("write", ["one", "several"])
def test_a_full_disk_is_told_with_the_file(
    tmp_path: Path, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's error of a write has no name, as the file is open by then."""

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    path = tmp_path / "table.csv"
    with pytest.raises(OSError, match=r"No space left on device: '.*table\.csv'$"):
        write_bytes(path, b"a") if write == "one" else write_files({path: b"a"})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with replacing(tmp_path / "a") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")] == [
        "a",
        "a/second",
    ]


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "a")
    assert [file.name for file in tmp_path.rglob("*")] == ["a", "old"]


def test_none_of_several_files_is_replaced_before_all_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    write_files(dict.fromkeys(paths, b"old"))
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if "b" in self.name.split("."):
            raise OSError("full")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        write_files(dict.fromkeys(paths, b"new"))
    assert sorted(tmp_path.iterdir()) == paths
    assert [path.read_bytes() for path in paths] == [b"old", b"old"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """And not what a living one, or another target's, is writing."""
    code = (
        "import os, sys, pathlib\n"
        "from dynamax_lm.common.outputs import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with replacing(tmp_path / "a") as partial:
        partial.write_text("first")
        with replacing(tmp_path / "a.b") as other:
            other.write_text("x")
            assert partial.exists()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert [name for name in names if not name.startswith(".")] == ["a", "a.b"]
    (left,) = (name for name in names if name.startswith("."))
    assert left.startswith(".b.")


def test_contents_are_on_the_disk_before_a_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append("name"), replace(a, b))[1])
    write_json(tmp_path / "a.json", {})
    write_files({tmp_path / "b": b"1", tmp_path / "c": b"2"})
    assert done == ["sync", "name", "sync", "sync", "name", "name"]
