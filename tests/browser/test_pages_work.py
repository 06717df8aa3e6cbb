"""The pages sort, filter, turn and tell, also when they are large."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dynamax_lm.report.__main__ import main
from tests.browser.pages import Pages, token_pages
from tests.browser.visits import Visits
from tests.report.synthetic import GENERATION, Plan, write_run

pytestmark = pytest.mark.browser

ONE = {"gen": GENERATION}


def test_the_table_sorts_both_ways_and_filters(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.report / "index.html") as page:
        button = page.locator("#board thead button", has_text="layers")
        at = page.evaluate("heads.findIndex((h) => h.textContent.includes('layers'))")
        column = "(at) => [...body.rows].map((row) => value(row, at)).filter((x) => x !== null)"
        button.click()
        up = page.evaluate(column, at)
        button.click()
        assert up == sorted(up)
        assert page.evaluate(column, at) == sorted(up, reverse=True)
        page.locator("[data-filter=kind]").select_option("oracle")
        rows = page.locator("#board tbody tr:visible")
        assert {row.get_attribute("data-kind") for row in rows.all()} == {"oracle"}
        every = page.locator("#board tbody tr").count()
        assert page.locator("#count").text_content() == f"{rows.count()} of {every} rows"


def test_a_link_opens_its_setting_beside_full_depth_with_their_differences(
    visits: Visits, pages: Pages
) -> None:
    """What is marked in two answers, and only that, differs between them."""
    path = pages.every["compared"]
    with visits.open(path) as page:
        for number in range(page.locator("input[name=run]").count()):
            page.goto(f"{path.as_uri()}#{number}")
            assert page.locator("input[name=run]").nth(number).is_checked()
            assert page.locator("input[name=run]:checked").count() == 2
            pairs = page.evaluate(
                """() => [...document.querySelectorAll(".answers")].map((row) =>
                  [...row.children].map((one) => [...one.querySelectorAll("p:first-of-type > *")]
                    .map((part) => [part.tagName, part.textContent])))"""
            )
            assert len(pairs) == 20
            for one, other in pairs:
                whole = ["".join(text for _, text in answer) for answer in (one, other)]
                kept = ["".join(t for tag, t in a if tag != "MARK") for a in (one, other)]
                assert kept[0] == kept[1]
                assert (whole[0] == whole[1]) == (kept == whole)
            differ = page.evaluate("all.filter(differs).length")
            page.locator("#differing").check()
            assert f" of {differ} documents" in str(page.locator("#place").text_content())
            page.locator("#differing").uncheck()


def test_without_a_link_the_first_setting_with_exits_stands_beside_full_depth(
    visits: Visits, pages: Pages
) -> None:
    with visits.open(pages.every["compared"]) as page:
        marks = "runs.map((one, at) => [boxes[at].checked, one.full, one.exits])"
        shown = page.evaluate(marks)
        full = next(at for at, (_, is_full, _) in enumerate(shown) if is_full)
        exits = next(at for at, (_, _, each) in enumerate(shown) if each)
        assert [at for at, (on, _, _) in enumerate(shown) if on] == sorted([full, exits])


def test_a_prompt_is_marked_as_cut_only_where_it_is(visits: Visits, pages: Pages) -> None:
    with visits.open(pages.session) as page:
        said = page.locator("article summary").all_text_contents()
        whole = page.evaluate("all.map((doc) => !doc.omitted && doc.prompt.length <= 120)")
        assert any(whole)
        assert [not one.startswith("Prompt: …") for one in said] == whole


def test_a_thousand_documents_open_quickly_twenty_at_a_time(visits: Visits, tmp_path: Path) -> None:
    write_run(tmp_path / "in", Plan(tasks=ONE, documents=1000))
    main([str(tmp_path / "in"), "--output_path", str(tmp_path / "out")])
    with visits.open(token_pages(tmp_path / "out")[0]) as page:
        drawn = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
        assert 0 < page.evaluate(drawn) < 10_000, "milliseconds from the start of loading"
        headings = page.locator("article h2")
        assert headings.all_text_contents() == [f"Document {i}" for i in range(20)]
        page.locator("#on").click()
        assert headings.all_text_contents() == [f"Document {i}" for i in range(20, 40)]
        assert page.locator("#place").text_content() == "21 to 40 of 1000 documents"
        page.locator("#differing").check()
        differing = page.evaluate("chosen.length")
        assert 0 < differing < 1000
        marked = "chosen.every((d) => d.answers.some((a) => a.tokens.some((t) => t.length > 3)))"
        assert page.evaluate(marked)
        assert "≠" in page.evaluate(
            "getComputedStyle(document.querySelector('.tok.no'), '::before').content"
        )


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_pictures_are_seen_inside_the_page_and_beside_it(
    visits: Visits, tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamax_lm.report.page.EMBEDDED", room)
    write_run(tmp_path / "in", Plan(tasks=ONE))
    main([str(tmp_path / "in"), "--output_path", str(tmp_path / "out")])
    if room:
        shutil.rmtree(tmp_path / "out" / "pictures")
    with visits.open(tmp_path / "out" / "index.html") as page:
        widths = page.evaluate(
            """async () => {
              const images = [...document.images];
              images.forEach((image) => { image.loading = "eager"; });
              await Promise.all(images.map((image) => image.decode()));
              return images.map((image) => image.naturalWidth);
            }"""
        )
    assert len(widths) == 4
    assert min(widths) > 300
