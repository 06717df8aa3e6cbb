"""Nothing is cut off, and all text is readable, in light and dark, on a desk and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.pages import Pages
from tests.browser.visits import Visits

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

LOOKS = (Path(__file__).parent / "looks.js").read_text(encoding="utf-8")
PHONE = 390
KINDS = ("leaderboard", "tokens", "compared", "session")


def asked(page: Page, what: str) -> Any:
    return page.evaluate(f"{LOOKS}.{what}()")


def unfolded(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_at_1280_pixels(visits: Visits, pages: Pages, kind: str) -> None:
    with visits.open(pages.every[kind]) as page:
        unfolded(page)
        assert asked(page, "cut") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_scrolls_tables_and_never_the_page(visits: Visits, pages: Pages, kind: str) -> None:
    with visits.open(pages.every[kind], width=PHONE) as page:
        unfolded(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
        page.keyboard.press("End")
        assert page.evaluate("scrollX") == 0


def test_a_phone_shows_legible_plots(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.report / "index.html", width=PHONE) as page:
        high = page.evaluate(
            "[...document.querySelectorAll('.scatter text:not(.about)')]"
            ".map((one) => one.getBoundingClientRect().height)"
        )
        assert min(high) > 10, "pixels of a line of text, which is 15 or so at full size"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_has_enough_contrast(
    visits: Visits, pages: Pages, kind: str, dark: bool
) -> None:
    """WCAG AA, of the colours that the browser computed."""
    with visits.open(pages.every[kind], dark=dark) as page:
        unfolded(page)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") != dark
        found = asked(page, "contrasts")
        assert len(found) > 50
        assert [one for one in found if one["ratio"] < one["needed"]] == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_no_violation(visits: Visits, pages: Pages, kind: str, dark: bool) -> None:
    """Deque's axe-core: its rules for WCAG 2 A and AA, and its best practices."""
    from axe_playwright_python.sync_playwright import Axe

    with visits.open(pages.every[kind], dark=dark) as page:
        unfolded(page)
        found = Axe().run(page)
        assert len(found.response["passes"]) > 15
        assert found.violations_count == 0, found.generate_report()
