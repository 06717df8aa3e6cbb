"""A last-resort finder for ``transformers.data.metrics.squad_metrics``.

Stock lm-eval tasks (coqa, some of scrolls, super_glue and others) import it, and transformers has
removed it. The finder is last in ``sys.meta_path``: a real module takes precedence.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).parent
_PACKAGE = "transformers.data.metrics"


class LastResort:
    """Finds the missing package and its one module, and nothing else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The replacement's spec, or ``None``."""
        del path, target
        if name == _PACKAGE:
            return ModuleSpec(name, None, is_package=True)
        if name == f"{_PACKAGE}.squad_metrics":
            return spec_from_file_location(name, _HERE / "squad_metrics.py")
        return None
