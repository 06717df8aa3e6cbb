"""Visits to pages: opened in the browser, and what each of them requested, logged and ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.hostile import SENTINEL

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTH, HEIGHT = 1280, 900
PATIENCE = 120_000
"""Milliseconds; a busy machine is no fault of a page."""


@dataclass
class Visits:
    """Opens pages, and records what none of them may do.

    Attributes:
        browser: that opens them.
        requests: every address that any page requested.
        faults: dialogs, errors of the console and of scripts.
        sentinels: names of pages in which text of a model ran.
    """

    browser: Browser
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    sentinels: list[str] = field(default_factory=list)

    @contextmanager
    def open(self, path: Path, *, width: int = WIDTH, dark: bool = False) -> Iterator[Page]:
        """The page at ``path``, on a screen of ``width`` pixels."""
        context = self.browser.new_context(
            viewport={"width": width, "height": HEIGHT},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(f"{path.name}: {error}"))
        page.on("console", lambda said: self._note(path, said.type, said.text))
        page.on("dialog", lambda dialog: (self._note(path, "error", "dialog"), dialog.dismiss()))
        page.goto(path.as_uri())
        yield page
        if page.evaluate(f"globalThis.{SENTINEL} !== undefined"):
            self.sentinels.append(path.name)
        context.close()

    def _note(self, path: Path, kind: str, text: str) -> None:
        if kind in {"error", "warning", "assert"}:
            self.faults.append(f"{path.name}: {text}")
