"""Digests of the contents of files and folders, for runs that are taken up again.

Names, sizes and times do not identify contents: another file may be copied to the same path with
its old time. Every byte is read, once in a process for each state of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import xxhash

_AT_ONCE = 1 << 22
_BLOBS = "blobs"
"""The folder of the hub's cache whose files are named by their contents."""


def file_digest(path: Path) -> str:
    """The digest of a file's bytes, 32 hexadecimal digits.

    XXH3 of 128 bits: it detects any accidental change, and is no signature.

    Raises:
        OSError: it cannot be read.
    """
    there = path.stat()
    known = (there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino, there.st_dev)
    return _read(str(path.absolute()), known)


def folder_digest(folder: Path, suffixes: Iterable[str] = ()) -> str:
    """The digest of all files below a folder, by their relative paths.

    A file of the hub's cache counts by the name of its blob, which is a digest of its contents.

    Args:
        folder: of any depth.
        suffixes: of the files that count; empty for all.

    Raises:
        OSError: a file cannot be read.
    """
    chosen = frozenset(suffixes)
    whole = hashlib.sha256()
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        if chosen and file.suffix not in chosen:
            continue
        real = file.resolve()
        content = real.name if file.is_symlink() and real.parent.name == _BLOBS else None
        whole.update(f"{file.relative_to(folder)}\0{content or file_digest(file)}\n".encode())
    return whole.hexdigest()[:32]


@lru_cache(maxsize=4096)
def _read(path: str, known: tuple[int, ...]) -> str:
    """Of one state of a file: a file that was written since has another time or number."""
    del known
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while some := file.read(_AT_ONCE):
            digest.update(some)
    return digest.hexdigest()
