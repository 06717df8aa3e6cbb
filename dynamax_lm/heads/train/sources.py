"""Sources of training documents: a hub dataset, or local text and JSONL.

A source yields all its documents in an order determined by the seed and the epoch; ``held_out``
decides which of them train.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dynamax_lm.common.errors import SettingError, first_line
from dynamax_lm.heads.train.documents import Document, Layout

DEFAULT_DATA = "HuggingFaceFW/fineweb-edu"
"""The data set of the paper's classifiers."""

PASSAGE_CHARACTERS = 4000
_SHUFFLE_BUFFER = 1000


class Source(Protocol):
    """Documents in an order determined by the seed and the epoch."""

    @property
    def digest(self) -> str:
        """Identifies the documents."""
        ...

    def documents(self, epoch: int) -> Iterator[Document]:
        """One pass."""
        ...


@dataclass(frozen=True)
class LocalSource:
    """Documents in memory, shuffled anew every epoch.

    Attributes:
        items: the documents; text is small compared with hidden states, which are not kept.
        seed: determines the order.
    """

    items: tuple[Document, ...]
    seed: int

    @property
    def digest(self) -> str:
        """Of every document's text and group, and of what ends its answer."""
        whole = hashlib.sha256()
        for one in self.items:
            told = one if one.until else one[:3]
            whole.update(json.dumps(told).encode() + b"\n")
        return whole.hexdigest()[:16]

    def documents(self, epoch: int) -> Iterator[Document]:
        """One pass over all of them."""
        order = list(range(len(self.items)))
        random.Random(f"documents:{self.seed}:{epoch}").shuffle(order)
        return (self.items[number] for number in order)


@dataclass(frozen=True)
class HubSource:
    """A streamed dataset of the hub.

    Attributes:
        name: the dataset's id.
        config: its configuration, if it has several.
        split: its split.
        layout: how a record becomes a document.
        seed: decides the order.
    """

    name: str
    config: str | None
    split: str
    layout: Layout
    seed: int

    @property
    def digest(self) -> str:
        """Of its names alone: a streamed dataset is not read beforehand."""
        return f"{self.name}/{self.config}/{self.split}"

    def documents(self, epoch: int) -> Iterator[Document]:
        """One pass, shuffled within a buffer."""
        import datasets

        try:
            stream = datasets.load_dataset(
                self.name, self.config, split=self.split, streaming=True
            ).shuffle(seed=self.seed, buffer_size=_SHUFFLE_BUFFER)
            stream.set_epoch(epoch)
            for number, record in enumerate(stream):
                yield self.layout.document(record, f"--data={self.name}, record {number}")
        except SettingError:
            raise
        except Exception as error:  # the hub's libraries raise dozens of kinds
            raise SettingError(
                f"--data={self.name}: neither a file or folder here nor to be had from the hub "
                f"(offline, misspelt, or gated?): {type(error).__name__}: {first_line(error)}; "
                f"a .txt, a .jsonl or a folder of them needs no network"
            ) from error


def open_source(
    data: str,
    *,
    layout: Layout,
    seed: int,
    config: str | None = None,
    split: str = "train",
) -> Source:
    """The source that ``data`` names: a local file or folder, else a dataset of the hub.

    Raises:
        SettingError: not found, not readable, or without text.
    """
    path = Path(data).expanduser()
    if path.exists():
        return LocalSource(tuple(_local(path, layout)), seed)
    if data.startswith((".", "/", "~")) or data.count("/") > 1 or path.suffix in _READERS:
        raise SettingError(
            f"--data={data}: no such file or folder; give a .txt, a .jsonl, a folder of them, or "
            f"a dataset id of the hub such as {DEFAULT_DATA}"
        )
    return HubSource(data, config, split, layout, seed)


def _local(path: Path, layout: Layout) -> list[Document]:
    files = _files(path) if path.is_dir() else [path]
    found: list[Document] = []
    for file in files:
        reader = _READERS.get(file.suffix)
        if reader is None:
            raise SettingError(f"--data={file}: not a kind that is read; give .txt or .jsonl")
        try:
            found += [one for one in reader(file, layout) if one.answer.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"--data={file}: cannot be read as UTF-8 text: {error}") from error
    if not found:
        raise SettingError(f"--data={path}: no text in it; give a file with text to train on")
    return found


def _files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix in _READERS)
    if not files:
        raise SettingError(f"--data={folder}: no .txt or .jsonl file in this folder")
    return files


def _passages(file: Path, layout: Layout) -> Iterator[Document]:
    """A text divided at blank lines into passages, so that a book can be split and shuffled."""
    del layout
    passage = ""
    for paragraph in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")):
        passage += paragraph + "\n\n"
        if len(passage) >= PASSAGE_CHARACTERS:
            yield from _pieces(passage)
            passage = ""
    yield from _pieces(passage)


def _pieces(passage: str) -> Iterator[Document]:
    """At most twice ``PASSAGE_CHARACTERS`` each: a text may have no blank line at all."""
    while len(passage) > 2 * PASSAGE_CHARACTERS:
        space = passage.rfind(" ", 0, PASSAGE_CHARACTERS)
        cut = space if space > 0 else PASSAGE_CHARACTERS
        yield Document("", passage[:cut])
        passage = passage[cut:]
    yield Document("", passage)


def _records(file: Path, layout: Layout) -> Iterator[Document]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"--data={file}, line {number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise SettingError(f"{where}: not JSON: {error.msg}") from error
            if not isinstance(record, dict):
                raise SettingError(f"{where}: a JSON object is needed, not {line.strip()[:40]}")
            yield layout.document(record, where)


_READERS = {".txt": _passages, ".jsonl": _records}
