"""The pages in a real browser (Chromium): they sort, filter, page and speak.

Each test adds a script to a copy of the page, which uses it as a person would and writes what it
saw into the document; ``--dump-dom`` prints it. Marked slow: it needs a browser.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from synthetic import GENERATION, Plan, write_run

from dynamax_lm.report.__main__ import main

pytestmark = pytest.mark.slow

ONE = {"gen": GENERATION}


def _seen(page: Path, script: str, *options: str) -> Any:
    """What ``script``, which fills ``seen``, saw on the page; ``options`` are the browser's."""
    copy = page.parent.parent / f"test_{page.name}"
    report = "document.body.innerHTML = ''; document.body.textContent = JSON.stringify(seen);"
    run = f"(async () => {{ {script}\n{report} }})();"
    program = f"<script>const seen = {{}};\n{run}</script></body>"
    copy.write_text(page.read_text().replace("</body>", program))
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
            *(*options, "--dump-dom", copy.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stdout[:500] + done.stderr[-500:]
    return json.loads(unescape(body[1]))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    write_run(folder / "in" / "a", Plan(tasks=ONE, documents=1000))
    write_run(folder / "in" / "b", Plan(tasks=ONE, documents=1000, threshold=0.7, seed=1))
    write_run(folder / "in" / "c", Plan(documents=4, settings={"confidence": "oracle"}))
    main([str(folder / "in"), "--output_path", str(folder / "out")])
    return folder / "out"


def test_the_table_sorts_both_ways_and_filters(report: Path) -> None:
    seen = _seen(
        report / "index.html",
        """
        const at = heads.findIndex((h) => h.textContent.includes("layers"));
        const column = () => [...body.rows].map((row) => value(row, at));
        const button = heads[at].querySelector("button");
        button.click(); seen.up = column(); seen.sort = heads[at].getAttribute("aria-sort");
        button.click(); seen.down = column();
        const kind = document.querySelector("[data-filter=kind]");
        kind.value = "oracle"; kind.dispatchEvent(new Event("input"));
        seen.kinds = [...body.rows].filter((row) => !row.hidden).map((row) => row.dataset.kind);
        seen.count = document.getElementById("count").textContent;
        """,
    )
    assert seen["up"] == sorted(seen["up"])
    assert seen["down"] == sorted(seen["up"], reverse=True)
    assert seen["sort"] == "ascending"
    assert seen["kinds"] == ["oracle", "oracle"]
    assert seen["count"] == "2 of 4 rows"


def test_a_thousand_documents_open_quickly_a_page_at_a_time(report: Path) -> None:
    page = max((report / "tokens").iterdir(), key=lambda path: path.stat().st_size)
    started = time.monotonic()
    seen = _seen(
        page,
        """
        const cards = () => [...document.querySelectorAll("article h2")].map((h) => h.textContent);
        seen.first = cards(); part("on").click(); seen.second = cards();
        seen.place = part("place").textContent;
        part("differing").click(); seen.differing = chosen.length;
        const marked = (doc) => doc.answers.some((a) => a.tokens.some((t) => t.length > 3));
        seen.marked = chosen.every(marked);
        seen.drawn = performance.now();
        """,
    )
    assert time.monotonic() - started < 60
    assert seen["first"] == [f"Document {i}" for i in range(20)]
    assert seen["second"] == [f"Document {i}" for i in range(20, 40)]
    assert seen["place"] == "21 to 40 of 1000 documents"
    assert 0 < seen["differing"] < 1000
    assert seen["marked"]
    assert seen["drawn"] < 5000, "milliseconds from the start of loading"


def test_tokens_speak_on_hover_and_on_focus_by_keyboard(report: Path) -> None:
    page = max((report / "tokens").iterdir(), key=lambda path: path.stat().st_size)
    seen = _seen(
        page,
        """
        const about = () => part("about").textContent;
        const row = [...document.querySelectorAll(".tokens")]
          .find((r) => r.querySelectorAll(".tok").length > 2);
        const [one, two] = row.querySelectorAll(".tok");
        one.dispatchEvent(new MouseEvent("mouseover", { bubbles: true })); seen.hover = about();
        one.focus(); seen.focus = about();
        one.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
        seen.moved = document.activeElement === two;
        seen.label = two.getAttribute("aria-label"); seen.after = about();
        seen.stops = row.querySelectorAll('.tok[tabindex="0"]').length;
        const differing = document.querySelector(".tok.no");
        seen.mark = getComputedStyle(differing, "::before").content;
        seen.says = differing.getAttribute("aria-label");
        """,
    )
    assert seen["hover"] == seen["focus"]
    assert "of 8 layers" in seen["focus"]
    assert "confidence 0." in seen["focus"]
    assert seen["moved"]
    assert seen["after"] == seen["label"] != seen["focus"]
    assert seen["stops"] == 1, "an answer is one stop of the Tab key"
    assert "≠" in seen["mark"]
    assert "full depth disagrees" in seen["says"]


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_pictures_are_seen_inside_the_page_and_beside_it(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamax_lm.report.page.EMBEDDED", room)
    write_run(tmp_path / "in", Plan(tasks=ONE))
    main([str(tmp_path / "in"), "--output_path", str(tmp_path / "out")])
    (tmp_path / "pictures").symlink_to(tmp_path / "out" / "pictures")  # beside the copied page
    seen = _seen(
        tmp_path / "out" / "index.html",
        """
        const images = [...document.images];
        images.forEach((image) => { image.loading = "eager"; });
        await Promise.all(images.map((image) => image.decode()));
        seen.widths = images.map((image) => image.naturalWidth);
        """,
        "--virtual-time-budget=10000",  # it waits for what the script waits for
    )
    assert len(seen["widths"]) == 4
    assert min(seen["widths"]) > 300


def test_evil_answers_run_nothing(tmp_path: Path) -> None:
    evil = (
        "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
    )
    made = write_run(tmp_path / "in", Plan(tasks=ONE))
    path = made.samples["gen"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["arguments"]["gen_args_0"]["arg_0"] = evil
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    main([str(tmp_path / "in"), "--output_path", str(tmp_path / "out")])
    (page,) = (tmp_path / "out" / "tokens").iterdir()
    seen = _seen(page, "seen.title = document.title; seen.prompt = all[0].prompt;")
    assert seen == {"title": "gen: where tokens exit", "prompt": evil}
