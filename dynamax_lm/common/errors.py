"""The one error users can cause; the command line prints it as a single line."""

from __future__ import annotations


class SettingError(ValueError):
    """A setting that cannot be honoured: names the value, what is allowed, and the fix."""
