"""A point counts as finished only by its own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.common.contents import file_digest
from dynamax_lm.sweep.folder import NOTE, PointFolder

OTHER = "../other.json"


def point(folder: Path, results: Any, files: Any) -> PointFolder:
    folder.mkdir()
    (folder / "results_1.json").write_text('{"results": 1}')
    (folder / OTHER).write_text('{"results": 2}')
    note = {"key": "made-up", "results": results, "files": files}
    (folder / NOTE).write_text(json.dumps(note))
    return PointFolder(folder, lambda: "made-up")


def digests(folder: Path, *names: str) -> dict[str, str]:
    contents = {"results_1.json": '{"results": 1}', OTHER: '{"results": 2}'}
    found = {}
    for name in names:
        (folder / "copy").write_text(contents[name])
        found[name] = file_digest(folder / "copy")
    return found


def test_a_point_is_found_with_its_own_results(tmp_path: Path) -> None:
    files = digests(tmp_path, "results_1.json")
    found = point(tmp_path / "point", "results_1.json", files).finished()
    assert found == {"results": 1}


@pytest.mark.parametrize(
    ("results", "named"),
    [
        ("results_1.json", []),
        (OTHER, ["results_1.json"]),
        (OTHER, ["results_1.json", OTHER]),
        (["results_1.json"], ["results_1.json"]),
        (None, ["results_1.json"]),
    ],
)
def test_files_elsewhere_and_files_without_a_digest_count_for_nothing(
    tmp_path: Path, results: Any, named: list[str]
) -> None:
    files = digests(tmp_path, *named)
    assert point(tmp_path / "point", results, files).finished() is None


@pytest.mark.parametrize("files", [None, [], "x", {"": "x"}, {"a\0b": "x"}, {"results_1.json": 1}])
def test_damaged_lists_of_files_count_for_nothing(tmp_path: Path, files: Any) -> None:
    assert point(tmp_path / "point", "results_1.json", files).finished() is None
