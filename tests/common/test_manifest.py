"""The manifest: what it lists is what is there, whatever is done to the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.manifest import Manifest, digest_of, manifest_beside


def _made(folder: Path, contents: bytes = b"{}") -> tuple[Path, Manifest]:
    results = folder / "results_now.json"
    results.write_bytes(contents)
    (folder / "trace_task.jsonl").write_bytes(contents * 2)
    traces = [folder / "trace_task.jsonl"]
    return results, Manifest.of([results], traces, version="1", fingerprint="f")


@given(contents=st.binary(max_size=200), other=st.binary(max_size=200))
def test_two_files_have_one_digest_exactly_if_they_are_equal(
    tmp_path_factory: pytest.TempPathFactory, contents: bytes, other: bytes
) -> None:
    folder = tmp_path_factory.mktemp("files")
    (folder / "a").write_bytes(contents)
    (folder / "b").write_bytes(other)
    same = digest_of(folder / "a") == digest_of(folder / "b")
    assert same == (contents == other)
    assert digest_of(folder / "a").size == len(contents)


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    results, manifest = _made(tmp_path)
    path = manifest_beside(results)
    assert path is not None
    assert path.name == "manifest_now.json"
    manifest.write(path)
    assert Manifest.read(path) == manifest
    assert not list(tmp_path.glob(".*"))


def test_other_names_have_none() -> None:
    assert manifest_beside(Path("out_now.json")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"version": 1},
        {"fingerprint": None},
        {"files": []},
        {"files": {"../x": {"sha256": "0", "size": 1}}},
        {"traces": {"x": {"sha256": "0"}}},
        {"traces": None},
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    _, manifest = _made(tmp_path)
    path = tmp_path / "manifest_now.json"
    path.write_text(json.dumps(manifest.to_json() | change))
    with pytest.raises(ValueError, match=r"manifest|entry"):
        Manifest.read(path)


def test_a_file_that_is_missing_makes_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        Manifest.of([tmp_path / "gone"], [], version="1", fingerprint="f")
