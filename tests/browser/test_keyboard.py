"""Everything usable can be reached by Tab, shows its focus, and acts on Enter or Space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.pages import Pages
from tests.browser.test_looks import KINDS, LOOKS
from tests.browser.visits import Visits

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def _around(page: Page, number: int) -> bytes:
    """What the screen shows of a stop, and a little around it."""
    box = page.evaluate(
        "(n) => { const b = stops[n].getBoundingClientRect();"
        " return [b.x, b.y, b.width, b.height]; }",
        number,
    )
    x, y, width, height = box
    left, top = max(0, x - 6), max(0, y - 6)
    size = {"width": min(width, 1000) + 12, "height": min(height, 600) + 12}
    return page.screenshot(clip={"x": left, "y": top, **size})


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tab_reaches_everything_and_focus_is_seen(
    visits: Visits, pages: Pages, kind: str, dark: bool
) -> None:
    with visits.open(pages.every[kind], dark=dark) as page:
        page.evaluate(f"globalThis.looks = {LOOKS}; globalThis.stops = looks.stops();")
        kinds = page.evaluate("stops.map(looks.kind)")
        assert len(kinds) >= 5
        order, plain = [], []
        for _ in range(len(kinds) + 1):
            page.keyboard.press("Tab")
            at = page.evaluate("stops.indexOf(document.activeElement)")
            if at < 0 or at in order:
                break
            if kinds[at] not in {kinds[one] for one in order}:
                focused = _around(page, at)
                page.evaluate(f"stops[{at}].blur()")
                if _around(page, at) == focused:
                    plain.append(kinds[at])
                page.evaluate(f"stops[{at}].focus({{ preventScroll: true }})")
            order.append(at)
        assert [kinds[one] for one in range(len(kinds)) if one not in order] == []
        assert plain == [], "no sign of focus"


def _focus(page: Page, selector: str) -> None:
    page.locator(selector).first.focus()


def test_headings_sort_by_enter_and_by_space(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.report / "index.html") as page:
        heads = page.locator("#board thead th")
        for number in range(heads.count()):
            heads.nth(number).locator("button").focus()
            for key, order in (("Enter", "ascending"), ("Space", "descending")):
                page.keyboard.press(key)
                assert heads.nth(number).get_attribute("aria-sort") == order


def test_filters_act_by_keyboard(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.report / "index.html") as page:
        rows = page.locator("#board tbody tr:visible")
        every = rows.count()
        for name in ("task", "metric", "checkpoint", "kind"):
            _focus(page, f"[data-filter={name}]")
            page.keyboard.press("ArrowDown")
            assert 0 < rows.count() < every or name == "metric"
            page.keyboard.press("ArrowUp")
            assert rows.count() == every
        _focus(page, "[data-filter=best]")
        page.keyboard.press("Space")
        assert 0 < rows.count() < every
        page.keyboard.press("Space")
        _focus(page, "[data-filter=text]")
        page.keyboard.type("oracle")
        assert 0 < rows.count() < every
        for _ in "oracle":
            page.keyboard.press("Backspace")
        before = rows.all_text_contents()
        _focus(page, "#sort")
        page.keyboard.press("End")
        assert sorted(rows.all_text_contents()) == sorted(before)


@pytest.mark.parametrize("selector", ["svg .point", "#board tbody a"])
def test_points_and_rows_lead_to_answers(visits: Visits, pages: Pages, selector: str) -> None:
    board = pages.report / "index.html"
    with visits.open(board) as page:
        links = page.locator(selector)
        targets = page.evaluate(
            "(s) => [...document.querySelectorAll(s)].map((a) => a.getAttribute('href'))",
            selector,
        )
        assert len(targets) >= 8
        for target in targets:
            path, _, anchor = target.partition("#")
            assert (board.parent / path).is_file()
            assert path or page.locator(f"#{anchor}").count() == 1
        links.first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: url.endswith(targets[0]))


def test_a_prompt_unfolds_and_pages_turn(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.every["tokens"]) as page:
        _focus(page, "article summary")
        page.keyboard.press("Enter")
        assert page.locator("article details").first.get_attribute("open") is not None
        page.keyboard.press("Space")
        assert page.locator("article details").first.get_attribute("open") is None
        place = page.locator("#place")
        first = place.text_content()
        _focus(page, "#on")
        page.keyboard.press("Enter")
        second = place.text_content()
        assert second != first
        _focus(page, "#back")
        page.keyboard.press("Space")
        assert place.text_content() == first
        _focus(page, "#differing")
        page.keyboard.press("Space")
        assert place.text_content() != first


def test_arrow_keys_step_through_an_answer(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.every["tokens"]) as page:
        row = page.locator(".tokens", has=page.locator(".tok:nth-of-type(3)")).first
        buttons, about = row.locator(".tok"), page.locator("#about")
        buttons.first.hover()
        hovered = about.text_content()
        assert "layers" in str(hovered)
        assert "confidence 0." in str(hovered)
        buttons.first.focus()
        assert about.text_content() == hovered
        for number in range(1, buttons.count()):
            page.keyboard.press("ArrowRight")
            label = page.evaluate("document.activeElement.getAttribute('aria-label')")
            assert label == buttons.nth(number).get_attribute("aria-label")
            assert about.text_content() == label
        page.keyboard.press("Home")
        assert about.text_content() == hovered
        assert row.locator(".tok[tabindex='0']").count() == 1, "an answer is one stop of Tab"


def test_the_map_of_depths_is_one_stop_and_leads_to_documents(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.every["tokens"]) as page:
        rows, about = page.locator(".map a"), page.locator("#about")
        assert rows.count() == page.evaluate("all.flatMap((d) => d.answers).length")
        assert page.locator(".map a[tabindex='0']").count() == 1
        rows.first.focus()
        page.keyboard.press("End")
        last = page.evaluate("document.activeElement.getAttribute('href')")
        assert str(about.text_content()).startswith(f"Document {last.rpartition('-')[2]}, ")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == last[1:]
        assert "to 48 of 48" in str(page.locator("#place").text_content())


def test_settings_to_compare_are_chosen_by_keyboard(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.every["compared"]) as page:
        boxes, columns = page.locator("input[name=run]"), page.locator("article >> nth=0 >> h3")
        assert columns.count() == 2
        for number in range(boxes.count()):
            before = columns.count()
            on = boxes.nth(number).is_checked()
            boxes.nth(number).focus()
            page.keyboard.press("Space")
            assert columns.count() == before + (-1 if on else 1)
