"""One line instead of a traceback, where a person typed the command.

Owns the exception hook of lm-eval's command line. Programs that call lm-eval as a library see the
exception itself.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

from dynamax_lm.errors import SettingError


def install_one_line_errors() -> None:
    """Print a wrong setting as one line on lm-eval's command line; anything else as before."""
    if not _is_command_line() or getattr(sys.excepthook, "_one_line", False):
        return
    before = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, SettingError):
            print(f"dynamax_lm: error: {error}", file=sys.stderr)
        else:
            before(kind, error, traceback)

    hook._one_line = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _is_command_line() -> bool:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name.partition(".")[0] in {"lm_eval", "dynamax_lm"}:
        return True
    command = os.path.basename(getattr(main, "__file__", "") or "").removesuffix(".py")
    return command in {"lm_eval", "lm-eval"}
