"""Output files, written whole or not at all, and the check of a command's output folder.

The content goes to a temporary file in the target's folder, which is renamed when it is complete
and on the disk, so that after a full disk, an interrupt or a power failure the previous file is
still there.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import SettingError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for the caller to write, which is renamed to ``path`` at the end.

    Missing parent folders are made. When the block raises, ``path`` is not changed and the
    temporary file is removed. A folder made at the temporary path replaces a folder. Temporary
    files that a killed process of this machine left for the same target are removed.

    Example:
        >>> with replacing(Path("table.csv")) as partial:
        ...     partial.write_text("a,b")

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(path)
    partial = _partial(path)
    try:
        with _naming(path):
            yield partial
        if partial.is_dir() and path.is_dir():
            _replace_folder(partial, path)
        else:
            sync(partial)
            partial.replace(path)
    finally:
        _remove(partial)


def write_bytes(path: Path, content: bytes) -> None:
    """A file, whole or not at all; missing parent folders are made.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file, whole or not at all, its line ends as they are in ``text``.

    Raises:
        OSError: it cannot be written.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any], *, indent: int = 2) -> None:
    """A JSON file, whole or not at all; values that JSON does not have are written as text.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, json.dumps(value, indent=indent, default=str) + "\n")


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Several files: all are complete before the first is renamed, in the order given.

    Raises:
        OSError: one of them cannot be written.
    """
    partials = {path: _partial(path) for path in contents}
    try:
        for path, content in contents.items():
            with _naming(path):
                partials[path].write_bytes(content)
                sync(partials[path])
        for path, partial in partials.items():
            partial.replace(path)
    finally:
        for partial in partials.values():
            _remove(partial)


_WHILE_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an error of the disk, which the system gives without a name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _WHILE_WRITING:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Make a file's contents survive a power failure; folders are left to the system.

    Raises:
        OSError: its contents cannot be written to the disk.
    """
    if path.is_file():
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def writable_folder(path: Path | str, option: str = "--output_path") -> Path:
    """The folder that an option names, which exists or can be made.

    Args:
        path: as given.
        option: its name, for the refusal.

    Raises:
        SettingError: no name, a file or a link to nothing of that name, or the folder is not
            writable.
    """
    if not str(path).strip():
        raise SettingError(f"{option}: names no folder")
    folder = Path(path)
    there = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if there.is_symlink() and not there.exists():
        raise SettingError(f"{option} {folder}: {there} is a link to nothing; give a folder")
    if not there.is_dir():
        raise SettingError(f"{option} {folder}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SettingError(f"{option} {folder}: {there} cannot be written to")
    return folder


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other commands that claim it from writing there inside the block.

    The claim ends with the process, however it ends. It holds on POSIX systems, and among the
    machines of a network file system as far as that has locks. Folders that were made and got no
    file are removed.

    Raises:
        SettingError: another process has claimed the folder, or it cannot be made.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"--output_path {folder}: it cannot be written: {error.strerror}"
        ) from error
    if fcntl is None:
        try:
            yield
        finally:
            _remove_empty(made)
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            made = []
            raise SettingError(
                f"{folder}: another command is writing there; let it end, or give another "
                f"--output_path"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        _remove_empty(made)
        os.close(descriptor)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove these folders, each inside the next, up to the first that is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def is_whole_json(path: Path) -> bool:
    """Whether a file is there, and JSON to its end."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def has_whole_lines(path: Path, count: int) -> bool:
    """Whether a file has that many lines, each a JSON object to its end."""
    try:
        with path.open("rb") as file:
            lines = file.readlines()
    except OSError:
        return False
    return len(lines) == count and all(line.endswith(b"}\n") for line in lines)


def _partial(path: Path) -> Path:
    """A name that readers ignore; machine and process number distinguish writers."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.partial")


def _machine() -> str:
    return re.sub(r"\W", "_", platform.node())


def _remove_orphans(path: Path) -> None:
    """Remove what killed writers left: a process of this machine that no longer runs."""
    name = re.compile(rf"\.{re.escape(path.name)}\.{_machine()}-(\d+)\.partial")
    for other in path.parent.glob(".*.partial"):
        match = name.fullmatch(other.name)
        if match and not _runs(int(match[1])):
            _remove(other)


def _runs(process: int) -> bool:
    if os.name != "posix":
        return True  # a signal of 0 is no question there
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _replace_folder(fresh: Path, path: Path) -> None:
    """Rename, which replaces a file atomically, but not a folder with contents."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.replace(old)
    try:
        fresh.replace(path)
    except OSError:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(partial: Path) -> None:
    """Remove the temporary path; the writer's own error takes precedence over errors here."""
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
