"""Training text of exit heads: documents, their sources, and the held-out split.

Sources are a hub dataset, or local text and JSONL. The split is by group: documents about one
passage or one question are on the same side.

A document is a prompt, which is prefilled at full depth as in an evaluation, and an answer, whose
tokens are checked at the exits. Plain text is a document without a prompt.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import jinja2

from dynamax_lm.common.errors import SettingError, first_line

DEFAULT_DATA = "HuggingFaceFW/fineweb-edu"
"""The data set of the paper's classifiers."""

PASSAGE_CHARACTERS = 4000
_SHUFFLE_BUFFER = 1000
_SPLIT_PARTS = 10_000
_PASSAGE = 200
"""Least number of characters of a paragraph that counts as the passage of a prompt."""

Part = Literal["train", "calibrate", "report"]
"""The split of a document: training, calibration, or the card's figures."""


class Document(NamedTuple):
    """A text; ``prompt`` is empty if all of it is checked at the exits.

    Attributes:
        prompt: prefilled at full depth.
        answer: checked at the exits.
        group: name of its group; if empty, :func:`group_of` derives one.
        until: each ends an answer that the frozen model gives in place of this one.
    """

    prompt: str
    answer: str
    group: str = ""
    until: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """How a record becomes a document.

    Attributes:
        text_field: the field of plain text.
        doc_to_text: jinja2 template of the prompt, as in lm-eval's tasks; with it a record is a
            prompt and an answer.
        doc_to_target: jinja2 template of the answer.
        group_by: the field that names a record's group, if a field does.
    """

    text_field: str = "text"
    doc_to_text: str | None = None
    doc_to_target: str | None = None
    group_by: str | None = None

    def __post_init__(self) -> None:
        if (self.doc_to_text is None) != (self.doc_to_target is None):
            raise SettingError("--doc_to_text and --doc_to_target: give both or neither")
        for name in ("doc_to_text", "doc_to_target"):
            template = getattr(self, name)
            if template is not None:
                try:
                    _environment().from_string(template)
                except jinja2.TemplateError as error:
                    raise SettingError(f"--{name}={template!r}: not a template: {error}") from error

    def document(self, record: Mapping[str, Any], where: str) -> Document:
        """The document of ``record``; ``where`` names it in an error.

        Fields ``prompt`` and ``answer`` are used unchanged, and ``until`` beside them; so is the
        text field otherwise.

        Raises:
            SettingError: a field that the record lacks, or that is not text.
        """
        group = self._group(record, where)
        if self.doc_to_text is not None and self.doc_to_target is not None:
            return Document(
                _render(self.doc_to_text, record, where),
                _render(self.doc_to_target, record, where),
                group,
            )
        if self.text_field not in record and {"prompt", "answer"} <= record.keys():
            return Document(
                _text(record["prompt"], "prompt", where),
                _text(record["answer"], "answer", where),
                group,
                _stops(record.get("until"), where),
            )
        if self.text_field not in record:
            has = ", ".join(sorted(map(str, record))) or "no field"
            raise SettingError(
                f"{where}: no field {self.text_field!r}, only {has}; name the text with "
                f"--text_field, or lay the record out with --doc_to_text and --doc_to_target"
            )
        return Document("", _text(record[self.text_field], self.text_field, where), group)

    def _group(self, record: Mapping[str, Any], where: str) -> str:
        if self.group_by is None:
            return ""
        group = record.get(self.group_by)
        if group is None or isinstance(group, (dict, list)) or str(group) == "":
            has = ", ".join(sorted(map(str, record))) or "no field"
            raise SettingError(
                f"{where}: --group_by={self.group_by}: names no group; give a field with text or "
                f"a number in every record; it has {has}"
            )
        return str(group)


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


def group_of(document: Document) -> str:
    """The group of a document, which is on one side of the split, in lower case.

    It is the group given in the document; else the longest paragraph of its prompt, if that is long
    enough to be a passage (of several questions); else the prompt's last paragraph, which is the
    question; else the text itself. Paragraphs end at blank lines; spaces are normalised.
    """
    if document.group:
        return document.group
    paragraphs = [" ".join(one.lower().split()) for one in re.split(r"\n\s*\n", document.prompt)]
    paragraphs = [one for one in paragraphs if one]
    if not paragraphs:
        return " ".join((document.prompt + document.answer).lower().split())
    longest = max(paragraphs, key=len)
    return longest if len(longest) >= _PASSAGE else paragraphs[-1]


def part_of(document: Document, held_out: float) -> Part:
    """The split of ``document``, a function of its group alone.

    Args:
        document: any.
        held_out: share of held-out groups, in [0, 1]; half of them are for calibration, the other
            half for the card's figures.
    """
    digest = hashlib.sha256(group_of(document).encode()).digest()
    place = int.from_bytes(digest[:8], "big") % _SPLIT_PARTS
    if place >= held_out * _SPLIT_PARTS:
        return "train"
    return "calibrate" if place < held_out / 2 * _SPLIT_PARTS else "report"


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


def _text(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise SettingError(f"{where}: field {field!r} is {type(value).__name__}, not text")
    return value


def _stops(value: object, where: str) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise SettingError(f"{where}: field 'until' is {value!r}: give a text or a list of texts")
    return tuple(stops)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def _render(template: str, record: Mapping[str, Any], where: str) -> str:
    try:
        return _environment().from_string(template).render(**record)
    except jinja2.TemplateError as error:
        has = ", ".join(sorted(map(str, record)))
        raise SettingError(f"{where}: {error.message} in {template!r}; it has {has}") from error
