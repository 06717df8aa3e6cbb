"""A run's manifest: which files the run wrote, and the digest of each.

This module has the manifest's name and format, and makes and compares digests. A manifest is not a
signature: a changed file with a rewritten manifest is not detected.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dynamax_lm.common.outputs import write_json
from dynamax_lm.common.validation import other_schema

if TYPE_CHECKING:
    from typing import Self

SCHEMA = 1
"""Version of the JSON format, raised where old readers would misread a value."""

_RESULTS = re.compile(r"results_(?P<stamp>.+)\.json")
_AT_ONCE = 1 << 20


class Digest(NamedTuple):
    """One file's contents.

    Attributes:
        sha256: of its bytes, in hexadecimal.
        size: in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files that one run wrote.

    Attributes:
        version: of the package.
        fingerprint: the run's.
        files: results and samples by name, in the folder of the manifest.
        traces: trace files by name, in the run's trace folder.
    """

    version: str
    fingerprint: str
    files: Mapping[str, Digest]
    traces: Mapping[str, Digest]

    @classmethod
    def of(
        cls, files: Iterable[Path], traces: Iterable[Path], *, version: str, fingerprint: str
    ) -> Self:
        """The manifest of the present files.

        Raises:
            OSError: one of them cannot be read.
        """
        return cls(version, fingerprint, _digests(files), _digests(traces))

    def write(self, path: Path) -> None:
        """The manifest as a file, whole or not at all."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": SCHEMA,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "files": {name: digest._asdict() for name, digest in sorted(self.files.items())},
            "traces": {name: digest._asdict() for name, digest in sorted(self.traces.items())},
        }

    @classmethod
    def read(cls, path: Path) -> Self:
        """The manifest in a file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not a manifest of this format.
        """
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("a manifest is a JSON object")
        if data.get("schema") != SCHEMA:
            raise ValueError(f"manifest {other_schema(data.get('schema'), SCHEMA, 'run it again')}")
        version, fingerprint = data.get("version"), data.get("fingerprint")
        if not isinstance(version, str) or not isinstance(fingerprint, str):
            raise ValueError("a manifest names a version and a fingerprint")
        return cls(version, fingerprint, _read(data.get("files")), _read(data.get("traces")))


def digest_of(path: Path) -> Digest:
    """The digest of one file.

    Raises:
        OSError: it cannot be read.
    """
    sha256, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while some := file.read(_AT_ONCE):
            sha256.update(some)
            size += len(some)
    return Digest(sha256.hexdigest(), size)


def manifest_beside(results: Path) -> Path | None:
    """The path of a results file's manifest, with the same time stamp.

    Returns:
        ``None`` where the file is not named ``results_<time stamp>.json``.
    """
    match = _RESULTS.fullmatch(results.name)
    return results.with_name(f"manifest_{match['stamp']}.json") if match else None


def _digests(files: Iterable[Path]) -> dict[str, Digest]:
    return {path.name: digest_of(path) for path in files}


def _read(data: object) -> dict[str, Digest]:
    if not isinstance(data, dict):
        raise ValueError("a manifest lists files and traces by name")
    digests = {}
    for name, value in data.items():
        known = isinstance(value, dict) and set(value) == set(Digest._fields)
        if not known or "/" in name or os.sep in name:
            raise ValueError(f"its entry {name!r} is no digest of a file")
        digests[name] = Digest(str(value["sha256"]), value["size"])
    return digests
