"""The exception hook of the command lines: one line instead of a traceback for what is no fault.

That is a wrong setting, a task that does not exist, an interrupt, and a disk that is full or cannot
be written to.

Programs that call lm-eval as a library get the exception itself.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from contextlib import redirect_stderr, suppress
from pathlib import PurePath
from types import FrameType, TracebackType

from dynamax_lm.common.errors import SettingError, one_line
from dynamax_lm.harness.plugin.unknown_tasks import is_unknown_tasks, unknown_tasks_line

_COMMANDS = frozenset({"lm_eval", "lm-eval"})
_PACKAGES = frozenset({"lm_eval", "dynamax_lm"})
_LM_EVAL = frozenset({"lm_eval", "lm_eval.__main__", "dynamax_lm", "dynamax_lm.__main__"})

_DISK = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.EIO, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        errno.EPIPE,
    }
)
"""Errors of the operating system about files, which no change of the program mends."""


def install_one_line_errors() -> None:
    """Print a wrong setting as one line on this package's and lm-eval's command lines.

    Python's status stays: 1, and 130 after an interrupt. lm-eval's command line lets exceptions
    through, so the interpreter's own hook is the place. Characters that a terminal cannot show are
    escaped from now on, so that none of them ends a command. SIGTERM ends it like an interrupt,
    with status 143, so that unfinished files are removed.
    """
    if not _is_command_line() or getattr(sys.excepthook, "_one_line", False):
        return
    _open_closed_streams()
    _end_by_terminate()
    before = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if (line := _line(error)) is not None:
            if before is not sys.__excepthook__:  # W&B detects a failed run by its own hook
                with redirect_stderr(io.StringIO()):
                    before(kind, error, traceback)
            print(f"dynamax_lm: {line}", file=sys.stderr)
        else:
            before(kind, error, traceback)

    hook._one_line = True  # type: ignore[attr-defined]
    sys.excepthook = hook
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end_by_terminate() -> None:
    """End this process in one line on SIGTERM, unless somebody else handles it.

    One of several processes ends at once: a handler in Python would wait for a blocked collective.
    """
    if "WORLD_SIZE" in os.environ or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    own = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:  # not a process forked from it
            sys.stderr.write("\ndynamax_lm: ended by SIGTERM\n")
        sys.exit(128 + number)

    with suppress(ValueError):  # outside the main thread
        signal.signal(signal.SIGTERM, end)


def _open_closed_streams() -> None:
    """Let what is printed where nobody reads, as after ``>&-``, go nowhere.

    Otherwise the first file that the command opens takes the stream's place.
    """
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is not None:
            continue
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
        mode = "r" if number == 0 else "w"
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _line(error: BaseException) -> str | None:
    """What to print of an error; ``None`` for a fault, which keeps its traceback."""
    if isinstance(error, SettingError):
        return f"error: {error}"
    if is_unknown_tasks(error):
        return f"error: {unknown_tasks_line(error)}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"error: {one_line(error)}"
    if type(error).__module__ == "sqlite3":  # of a response cache
        return f"error: use_cache: {one_line(error)}"
    return None


def is_lm_eval() -> bool:
    """Whether the main program is lm-eval's command line, under its name or ours."""
    return _module() in _LM_EVAL or _is_script()


def _is_command_line() -> bool:
    """Whether the main program is lm-eval's script, or a module of lm-eval's or ours."""
    return _module().partition(".")[0] in _PACKAGES or _is_script()


def _module() -> str:
    """The name of the main program as a module, empty for a script."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "" if spec is None else str(spec.name)


def _is_script() -> bool:
    return PurePath(sys.argv[0] if sys.argv else "").stem in _COMMANDS
