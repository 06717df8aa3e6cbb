"""Pictures of the report for the documentation: its own, and of its pages, taken in Chromium.

``make demo``, then ``.venv/bin/python scripts/screenshots.py demo`` (extra ``browser``) makes
``saved.png``, ``depths.png``, ``ledger.png``, ``reliability.png``, ``leaderboard.png``,
``tokens.png`` and ``side-by-side.png`` in ``docs/pictures`` anew, from the results of the embedded
models.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright

from dynamax_lm.common.outputs import write_bytes
from dynamax_lm.report.load import load
from dynamax_lm.report.write import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

WIDTH = 1280
DRAWN = ("saved", "depths", "ledger", "reliability")
"""The report's own pictures that the documentation shows."""
TASK = "tiny_mistral_dynamax_coqa_sample"
"""Their checkpoint and task, as files are named."""
SETTING = "head ≥ 0.8"
"""Of the embedded models' own threshold, whose answers are shown."""


def main() -> None:
    """Write the report of some results, take its pictures, and photograph three of its pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results of `make demo`")
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"))
    given = parser.parse_args()
    with TemporaryDirectory() as folder, _browser_page() as page:
        write_report(load([given.results]), Path(folder))
        for name in DRAWN:
            drawn = (Path(folder) / "pictures" / f"{TASK}_{name}.png").read_bytes()
            write_bytes(given.pictures / f"{name}.png", drawn)
            print(f"{given.pictures / name}.png")
        for name, take in TAKEN.items():
            page.goto((Path(folder) / "index.html").as_uri())
            high = take(page)
            write_bytes(given.pictures / f"{name}.png", _photograph(page, high))
            print(f"{given.pictures / name}.png")


def leaderboard(page: Page) -> int:
    """The table of one checkpoint and metric."""
    page.locator("[data-filter=checkpoint]").select_option("tiny/mistral")
    page.locator("[data-filter=metric]").select_option("em")
    page.evaluate("document.getElementById('settings').scrollIntoView(); scrollBy(0, -12)")
    bottom = page.evaluate(
        "Math.max(...[...body.rows].map((row) => row.getBoundingClientRect().bottom))"
    )
    return int(bottom) + 12


def tokens(page: Page) -> int:
    """The answers of one setting, with a token chosen."""
    _row(page).get_by_role("link", name="token by token").click()
    page.locator("article >> nth=1 >> .tok >> nth=2").focus()
    page.evaluate("scrollTo(0, 0)")
    return 900


def side_by_side(page: Page) -> int:
    """Two settings' answers, where they differ."""
    _row(page).get_by_role("link", name="side by side").click()
    page.locator("#differing").check()
    page.evaluate("document.activeElement.blur()")
    return 740


TAKEN = {"leaderboard": leaderboard, "tokens": tokens, "side-by-side": side_by_side}


def _row(page: Page) -> Locator:
    rows = page.locator("tr[data-checkpoint='tiny/mistral']")
    return rows.filter(has_text=SETTING).first


def _photograph(page: Page, high: int) -> bytes:
    page.set_viewport_size({"width": WIDTH, "height": high})
    whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    out = io.BytesIO()
    whole.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(out, "png", optimize=True)
    return out.getvalue()


@contextmanager
def _browser_page() -> Iterator[Page]:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("screenshots need Chromium: install it, or name it in CHROMIUM")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": WIDTH, "height": 2400}, color_scheme="light")
        browser.close()


if __name__ == "__main__":
    main()
