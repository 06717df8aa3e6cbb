"""The start-up hook: waits for lm-eval without importing it.

Owns two entries in ``sys.meta_path``' life: one that notices when lm-eval's models or tasks are
imported and then calls the bridge. It runs at every start of Python, so it imports the standard
library's smallest parts only. ``DYNAMAX_LM_NO_HOOK=1`` switches it off.
"""

from __future__ import annotations

import os
import sys

OFF = "DYNAMAX_LM_NO_HOOK"
"""Environment variable that switches the start-up hook off."""

WATCHED = ("lm_eval.models", "lm_eval.tasks")


class Waiter:
    """A finder that finds nothing itself; it lets the real loader run and then calls the bridge."""

    def __init__(self) -> None:
        self._busy = False

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """The real spec, its loader wrapped for one import; ``None`` for all other modules."""
        if name not in WATCHED or self._busy:
            return None
        self._busy = True
        try:
            from importlib.util import find_spec

            spec = find_spec(name)
        finally:
            self._busy = False
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return None
        spec.loader = _Once(spec.loader)  # type: ignore[assignment]
        return spec


class _Once:
    """The real loader, with the bridge called after it; leaves the real loader on the module."""

    def __init__(self, real) -> None:  # type: ignore[no-untyped-def]
        self._real = real

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return self._real.create_module(spec)

    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        module.__loader__ = module.__spec__.loader = self._real
        self._real.exec_module(module)
        from dynamax_lm.plugin.bridge import connect

        connect(module.__name__)


def install() -> None:
    """Wait for lm-eval; called at start-up by the ``.pth`` or ``.start`` file. Idempotent."""
    if os.environ.get(OFF):
        return
    force()


def force() -> None:
    """The same, whatever the environment says."""
    if not any(isinstance(finder, Waiter) for finder in sys.meta_path):
        sys.meta_path.insert(0, Waiter())
    for name in WATCHED:
        if name in sys.modules:
            from dynamax_lm.plugin.bridge import connect

            connect(name)
