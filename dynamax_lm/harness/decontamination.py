"""Identity of documents by their contents, for decontamination.

A question in a heads' training file, an evaluation sample and a certification file has three
forms, so that its identifying fields are compared, without case and spacing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.passages import contents, hashed, plain, telling
from dynamax_lm.harness.plugin.task_folder import TASKS


def value_of(doc: Mapping[str, Any], field: str) -> frozenset[str]:
    """A hash of one named field, without case and spacing.

    Raises:
        SettingError: the document has no such field.
    """
    if doc.get(field) is None:
        have = ", ".join(map(str, doc))
        raise SettingError(f"group_by={field}: a document has none; its fields are {have}")
    value = doc[field]
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return frozenset({hashed(plain(text))})


def parts(doc: Mapping[str, Any]) -> frozenset[str]:
    """`contents`, and hashes of the possible parts of a ready-made prompt among its fields.

    Each line is hashed with and without its label (``Question:``) and its question mark, and so is
    each beginning of the text, as a story is followed by questions.
    """
    found: set[str] = set()
    for field in telling(doc):
        lines = [line for line in map(plain, field.splitlines()) if line]
        for number, line in enumerate(lines, 1):
            bare = (line.partition(": ")[2] or line).rstrip(" ?")
            found |= {line, bare, f"{bare}?", " ".join(lines[:number])}
    return contents(doc) | frozenset(hashed(text) for text in found if len(text) > 1)


def digest(documents: Iterable[frozenset[str]]) -> str:
    """SHA-256 over the documents' sorted hashes: equal sets have equal digests."""
    lines = sorted("+".join(sorted(one)) for one in documents)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def evaluation_samples() -> frozenset[str]:
    """Hashes of the records that the package's ``_sample`` tasks evaluate on."""
    told: set[str] = set()
    for path in sorted(TASKS.glob("*/sample*.jsonl")):
        for record in read_records(path):
            told |= contents(record)
    return frozenset(told)


def training_contents(data: str) -> frozenset[str] | None:
    """Hashes of the JSONL file, or folder of such files, that heads were trained on.

    Training uses ready-made prompts, of which a document may be only a part: see `parts`.

    Args:
        data: as the heads' configuration names it.

    Returns:
        ``None`` if there is no such file, or it is plain text, which cannot be compared with
        documents.
    """
    path = Path(data).expanduser()
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or any(file.suffix != ".jsonl" or not file.is_file() for file in files):
        return None
    return frozenset().union(*(parts(one) for file in files for one in read_records(file)))


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        SettingError: the file is missing, empty, or a line is not a JSON object.
    """
    found = False
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                found = True
                yield _record(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"data={path}: cannot be read: {error}") from error
    if not found:
        raise SettingError(f"data={path}: holds no record; give JSONL, one object a line")


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise SettingError(f"data={path}: line {number} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise SettingError(f"data={path}: line {number} is not a JSON object")
    return record
