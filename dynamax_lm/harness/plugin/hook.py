"""The start-up hook: calls the bridge after lm-eval is imported, without importing it.

A finder in ``sys.meta_path`` detects that lm-eval's models or tasks are imported and then calls the
bridge. It runs at every start of Python, so it imports only modules that are loaded by then.
``DYNAMAX_LM_NO_HOOK=1`` disables it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` itself would cost more than the rest of the hook
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

OFF = "DYNAMAX_LM_NO_HOOK"
"""Environment variable that disables the start-up hook."""

WATCHED = ("lm_eval.models", "lm_eval.tasks")


class Waiter:
    """A finder that delegates to the others and wraps their loaders to call the bridge."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The real spec with its loader wrapped for one import; ``None`` for other modules."""
        if name not in WATCHED:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Once(spec.loader)  # type: ignore[arg-type, assignment]
                return spec
        return None


class _Once:
    """The real loader with the bridge called after it; the module gets the real one."""

    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """What the real loader creates."""
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then call the bridge."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._real
        self._real.exec_module(module)
        _connect(module.__name__)


def install() -> None:
    """Install the finder; called at start-up by the ``.pth`` or ``.start`` file. Idempotent."""
    if not os.environ.get(OFF):
        force()


def force() -> None:
    """The same, without checking the environment variable."""
    if not any(isinstance(finder, Waiter) for finder in sys.meta_path):
        sys.meta_path.insert(0, Waiter())
    for name in WATCHED:
        if name in sys.modules:
            _connect(name)


def _connect(name: str) -> None:
    """Call the bridge. An incompatible lm-eval runs without this package."""
    try:
        from dynamax_lm.harness.plugin.bridge import connect

        connect(name)
    except Exception as error:
        import logging

        logging.getLogger("lm_eval.dynamax_lm").warning(
            "dynamax_lm could not connect to this lm-eval (%s): %s: %s",
            name,
            type(error).__name__,
            error,
        )
