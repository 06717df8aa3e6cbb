"""Classes from outside the package: from a Python file, or from an installed package.

This module names, finds and loads them, and computes the digest of their source by which results
identify them.

A file is named ``path/to/my_measures.py:TopThreeMass``, relative to the working directory; an
installed package offers classes through an entry point group. Either runs the code it names, as
lm-eval's ``--include_path`` does. The digest is of the one file that has the class, not of what
that file imports.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from dynamax_lm.common.errors import SettingError, error_line

_DIGITS = 12
_FILE = re.compile(rf"(?P<path>.+\.py):(?P<name>\w+)(?:@(?P<digest>[0-9a-f]{{{_DIGITS}}}))?")


class Reference(NamedTuple):
    """A class as named in a setting.

    Attributes:
        path: of the Python file; ``None`` for an installed one.
        name: of the class, or of the entry point.
        digest: required digest of the source, if given.
    """

    path: str | None
    name: str
    digest: str | None

    @property
    def shown(self) -> str:
        """Its name in results, without the digest."""
        return self.name if self.path is None else f"{Path(self.path).name}:{self.name}"


class Extension(NamedTuple):
    """A loaded class or object.

    Attributes:
        name: ``FILE.py:CLASS@DIGEST``, or ``ENTRY_POINT@DIGEST``: equal names, equal source.
        made: the class.
    """

    name: str
    made: Any


def read_reference(text: str, group: str) -> Reference | None:
    """The class that ``text`` names, or ``None`` if it names none; runs no code.

    Args:
        text: ``FILE.py:CLASS`` or an entry point's name, either with ``@DIGEST`` or without.
        group: of the entry points.
    """
    if found := _FILE.fullmatch(text.strip()):
        return Reference(found["path"], found["name"], found["digest"])
    name, _, digest = text.strip().partition("@")
    return Reference(None, name, digest or None) if name in installed(group) else None


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """The classes that installed packages offer, by name; looked up once a process."""
    return {one.name: one for one in entry_points(group=group)}


def without_digest(name: str) -> str:
    """The name of a loaded class without its digest."""
    return name.partition("@")[0]


def source_digest(text: object) -> str | None:
    """The digest of the file that ``text`` names as ``FILE.py:CLASS``, if it names one."""
    found = _FILE.fullmatch(text.strip()) if isinstance(text, str) else None
    path = Path(found["path"]).expanduser() if found else None
    return _digest(path.read_bytes()) if path is not None and path.is_file() else None


def load(argument: str, reference: Reference, group: str, *, kind: type[Any] = type) -> Extension:
    """Run the code of the class, once for each content, and return the class.

    Args:
        argument: name of the argument, for errors.
        reference: of :func:`read_reference`.
        group: of the entry points.
        kind: required type of the named object; by default a class.

    Raises:
        SettingError: no such file or class, code that fails, or another digest.
    """
    where = f"{argument}={reference.path or ''}{':' if reference.path else ''}{reference.name}"
    if reference.path is None:
        made, digest = _from_package(where, reference.name, group)
    else:
        made, digest = _from_file(where, reference.path, reference.name)
    if reference.digest not in (None, digest):
        raise SettingError(
            f"{where}: its source has digest {digest}, not {reference.digest}; leave @DIGEST out "
            f"to take it as it is now"
        )
    if not isinstance(made, kind):
        what = "class" if kind is type else kind.__name__
        raise SettingError(f"{where}: {reference.name} is no {what}")
    return Extension(f"{reference.shown}@{digest}", made)


def _from_file(where: str, path: str, name: str) -> tuple[Any, str]:
    file = Path(path).expanduser()
    try:
        source = file.read_bytes()
    except OSError:
        raise SettingError(
            f"{where}: no file {path} can be read; its path is relative to the working directory"
        ) from None
    try:
        module = _run(str(file.resolve()), source)
    except Exception as error:  # any error of the file's code
        raise SettingError(f"{where}: the file fails ({error_line(error, 160)})") from error
    if not hasattr(module, name):
        classes = [one for one, value in vars(module).items() if _is_own(value, module)]
        raise SettingError(
            f"{where}: it has no class {name}; it has {', '.join(classes) or 'none'}"
        )
    return getattr(module, name), _digest(source)


@cache
def _run(path: str, source: bytes) -> ModuleType:
    """The module of a file's content; a file that changed is another module."""
    module = ModuleType(f"dynamax_lm_extension_{_digest(path.encode() + source)}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pickles look it up there
    try:
        exec(compile(source, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _from_package(where: str, name: str, group: str) -> tuple[Any, str]:
    try:
        made = installed(group)[name].load()
    except Exception as error:  # any error of the package's code
        raise SettingError(
            f"{where}: entry point {group} fails ({error_line(error, 160)})"
        ) from error
    try:
        source = inspect.getsourcefile(sys.modules[installed(group)[name].module])
    except (KeyError, TypeError):
        source = None
    if source is None:
        raise SettingError(f"{where}: entry point {group} has no source file to name results by")
    return made, _digest(Path(source).read_bytes())


def _is_own(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
