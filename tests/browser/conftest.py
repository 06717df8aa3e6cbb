"""Pages in a real browser (Chromium), and what each of them requested, logged and ran."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.hostile import SENTINEL
from tests.browser.pages import Pages, make_pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTH, HEIGHT = 1280, 900


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, with an empty profile of its own."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.exit("browser tests need the extra: pip install 'dynamax-lm[browser]'", 1)
    if found is None:
        pytest.exit("browser tests need Chromium: install it, or name it in CHROMIUM", 1)
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=list(SWITCHES))
        yield started
        started.close()


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


@pytest.fixture
def visits(browser: Browser) -> Iterator[Visits]:
    """Of every test: no network, no errors, no dialogs, no script but the pages' own."""
    made = Visits(browser)
    yield made
    assert made.requests, "no page was opened"
    assert [one for one in made.requests if not one.startswith(("file://", "data:"))] == []
    assert made.faults == []
    assert made.sentinels == []


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """A report with everything in it, and the page of two prompts."""
    return make_pages(tmp_path_factory.mktemp("pages"))
