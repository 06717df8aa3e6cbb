"""Docstrings of the reference page as Markdown.

Griffe, which reads them for mkdocstrings, loads this file (``extensions`` in ``mkdocs.yml``).
"""

from __future__ import annotations

from typing import Any

from griffe import Extension

from scripts.docs_site import as_markdown


class Docstrings(Extension):  # type: ignore[misc]
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        """Called with every object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
