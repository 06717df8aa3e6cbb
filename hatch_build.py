"""What an editable install takes from outside the package: the start-up hook and nothing else.

Trained heads are found in the repository there; copied beside the package they would leave an empty
folder behind when it is uninstalled.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOOKS = ("dynamax_lm_hook.pth", "dynamax_lm_hook.start")


class EditableHook(BuildHookInterface):  # type: ignore[type-arg]
    """Leaves heads out of editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a build; ``version`` is ``editable`` or ``standard``."""
        if version == "editable":
            build_data["force_include_editable"] = {
                f"dynamax_lm/harness/plugin/{name}": name for name in HOOKS
            }
