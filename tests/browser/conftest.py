"""A real browser (Chromium), and the pages that it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.pages import Pages, make_pages
from tests.browser.visits import Visits

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, with an empty profile of its own."""
    names = (os.environ["CHROMIUM"],) if "CHROMIUM" in os.environ else NAMES
    found = next(filter(None, map(shutil.which, names)), None)
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
