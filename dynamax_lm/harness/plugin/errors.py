"""The exception hook of the command lines: one line instead of a traceback for a wrong setting.

Programs that call lm-eval as a library get the exception itself.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from pathlib import PurePath
from types import TracebackType

from dynamax_lm.common.errors import SettingError

_COMMANDS = frozenset({"lm_eval", "lm-eval"})
_PACKAGES = frozenset({"lm_eval", "dynamax_lm"})


def install_one_line_errors() -> None:
    """Print a wrong setting as one line on this package's and lm-eval's command lines.

    Python ends with status 1 either way. lm-eval's command line lets exceptions through, so the
    interpreter's own hook is the place.
    """
    if not _is_command_line() or getattr(sys.excepthook, "_one_line", False):
        return
    before = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, SettingError):
            if before is not sys.__excepthook__:  # W&B detects a failed run by its own hook
                with redirect_stderr(io.StringIO()):
                    before(kind, error, traceback)
            print(f"dynamax_lm: error: {error}", file=sys.stderr)
        else:
            before(kind, error, traceback)

    hook._one_line = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _is_command_line() -> bool:
    """Whether the main program is lm-eval's script, or a module of lm-eval's or ours."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name.partition(".")[0] in _PACKAGES:
        return True
    return PurePath(sys.argv[0] if sys.argv else "").stem in _COMMANDS
