"""Whether each file of a folder is whole, by reading it as its kind is read."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path


def damaged_files(folder: Path) -> list[str]:
    """The files below ``folder`` that cannot be read to their end, each with the reason.

    A hidden or ``.partial`` file is one that a writer has not finished; it does not count.
    """
    return [complaint for file in _finished(folder) if (complaint := _complaint(file))]


def _finished(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden and file.suffix != ".partial":
            yield file


def _complaint(file: Path) -> str | None:
    read = READERS.get(file.suffix)
    if read is None:
        return None
    try:
        read(file)
    except Exception as error:
        return f"{file}: {type(error).__name__}: {str(error)[:200]}"
    return None


def _json(file: Path) -> None:
    json.loads(file.read_text("utf-8"))


def _lines(file: Path) -> None:
    text = file.read_text("utf-8")
    for line in text.splitlines():
        json.loads(line)
    if text and not text.endswith("\n"):
        raise ValueError("the last line has no end")


def _tensors(file: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict
            tensors.get_tensor(name)


def _checkpoint(file: Path) -> None:
    import torch

    torch.load(file, weights_only=True)


def _picture(file: Path) -> None:
    from PIL import Image

    with Image.open(file) as picture:
        picture.load()


def _vector(file: Path) -> None:
    ElementTree.parse(file)


def _page(file: Path) -> None:
    if not file.read_text("utf-8").rstrip().endswith("</html>"):
        raise ValueError("the page has no end")


def _database(file: Path) -> None:
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        (answer,) = database.execute("PRAGMA integrity_check").fetchone()
    if answer != "ok":
        raise ValueError(answer)


READERS: dict[str, Callable[[Path], None]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".safetensors": _tensors,
    ".pt": _checkpoint,
    ".png": _picture,
    ".svg": _vector,
    ".html": _page,
    ".db": _database,
}
"""By a file's suffix, what reads all of it and fails where it is damaged."""
