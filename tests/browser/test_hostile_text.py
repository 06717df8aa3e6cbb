"""Text of models, tasks and strangers' files runs nothing in any page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.hostile import PAYLOADS
from tests.browser.pages import Pages, token_pages
from tests.browser.visits import Visits

pytestmark = pytest.mark.browser


def _use(visits: Visits, path: Path) -> str:
    """Opens everything, points at everything, searches; the page's text as it is seen."""
    with visits.open(path) as page:
        seen = []
        for _ in range(20):
            page.evaluate(
                """() => {
                  document.querySelectorAll("details").forEach((one) => { one.open = true; });
                  for (const one of document.querySelectorAll("body *")) {
                    for (const kind of ["mouseover", "focusin", "keydown"]) {
                      one.dispatchEvent(new Event(kind, { bubbles: true }));
                    }
                  }
                }"""
            )
            seen.append(page.evaluate("document.body.textContent"))
            following = page.locator("#on:enabled")
            if not following.count():
                break
            following.click()
        search = page.locator("input[type=search]")
        for text in (PAYLOADS[1], PAYLOADS[7]):
            search.fill(text)
        page.wait_for_timeout(50)
        assert page.url == path.as_uri(), "nothing leads away from the page"
        assert page.evaluate("getComputedStyle(document.body).display") == "block"
        return "".join(seen)


def test_the_leaderboard_shows_it_as_text(visits: Visits, pages: Pages) -> None:
    text = _use(visits, pages.hostile / "index.html")
    for payload in (*PAYLOADS[:3], *PAYLOADS[5:8]):
        assert payload in text


def test_token_pages_show_it_as_text(visits: Visits, pages: Pages) -> None:
    found = token_pages(pages.hostile)
    assert len(found) == 4
    for path in found:
        text = _use(visits, path)
        for payload in PAYLOADS:
            assert payload.replace("\0", "\ufffd") in text or payload in text


def test_answers_side_by_side_are_text(visits: Visits, pages: Pages) -> None:
    found = list((pages.hostile / "compare").iterdir())
    assert len(found) == 2
    for path in found:
        text = _use(visits, path)
        for payload in PAYLOADS:
            assert payload.replace("\0", "\ufffd") in text or payload in text


def test_prompts_of_a_session_are_text(visits: Visits, pages: Pages) -> None:
    assert PAYLOADS[1] in _use(visits, pages.session)
