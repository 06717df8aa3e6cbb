"""Digests of contents: the same bytes, wherever and whenever they were written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common import contents
from dynamax_lm.common.contents import file_digest, folder_digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contents")


@given(one=st.binary(max_size=300), other=st.binary(max_size=300))
def test_files_are_equal_if_their_bytes_are(folder: Path, one: bytes, other: bytes) -> None:
    (folder / "one").write_bytes(one)
    (folder / "other").write_bytes(other)
    assert (file_digest(folder / "one") == file_digest(folder / "other")) == (one == other)


def test_other_bytes_of_the_same_size_and_time_are_seen(tmp_path: Path) -> None:
    """As after ``cp -p`` or ``rsync -t``."""
    file = tmp_path / "weights"
    file.write_bytes(b"before")
    known = file.stat()
    first = file_digest(file)
    file.write_bytes(b"after.")
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert file.stat().st_mtime_ns == known.st_mtime_ns
    assert file_digest(file) != first


def test_a_file_is_read_once_for_each_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(100))
    first = file_digest(file)
    monkeypatch.setattr(contents, "_AT_ONCE", None)  # reading in pieces of None would fail
    monkeypatch.setattr(contents.xxhash, "xxh3_128", None)
    assert file_digest(file) == first


def test_a_folder_is_its_files_and_their_places(tmp_path: Path) -> None:
    first = tmp_path / "first"
    (first / "inner").mkdir(parents=True)
    (first / "a.json").write_text("{}")
    (first / "inner" / "b.json").write_text("[]")
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    assert folder_digest(first) == folder_digest(copy)
    (copy / "note.log").write_text("grows")
    assert folder_digest(copy, [".json"]) == folder_digest(first, [".json"])
    assert folder_digest(copy) != folder_digest(first)
    (copy / "inner" / "b.json").rename(copy / "b.json")
    assert folder_digest(copy, [".json"]) != folder_digest(first, [".json"])


def test_a_blob_of_the_hubs_cache_counts_by_its_name(tmp_path: Path) -> None:
    """The hub names it by its contents, so that gigabytes need not be read again."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    digests = []
    for name in ("a1", "b2"):
        (blobs / name).write_bytes(b"unread")
        (snapshot / "model.safetensors").unlink(missing_ok=True)
        (snapshot / "model.safetensors").symlink_to(blobs / name)
        digests.append(folder_digest(snapshot))
    assert len(set(digests)) == 2
