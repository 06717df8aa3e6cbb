"""Pages: what an answer holds is text, never markup, and nothing is fetched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from synthetic import Plan, write_run

from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.page import leaderboard_page, tokens_page
from dynamax_lm.report.tokens import token_page
from dynamax_lm.report.tokentext import TokenTexts

EVIL = '</script><script>alert("x")</script><img src=//evil.example/x onerror=alert(1)>'


class _Reader(HTMLParser):
    """Collects tags, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts.append(data)


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    return reader


def test_answers_and_names_are_text_never_markup(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(settings={"pretrained": EVIL}))
    for path in made.samples.values():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            for arguments in line["arguments"].values():
                arguments["arg_0"] = EVIL
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    library = load([tmp_path])
    page = token_page(library, library.runs[0], "gen", TokenTexts())
    assert page is not None
    board = leaderboard_page(build(library), runs=1, problems=[EVIL])
    tokens = _read(tokens_page(page))
    for reader in (tokens, _read(board)):
        assert [tag for tag, _ in reader.tags].count("script") <= 2
        assert not any("onerror" in attrs for _, attrs in reader.tags)
        assert not any("alert(" in text and "JSON" in text for text in reader.scripts)
    embedded = json.loads(tokens.scripts[0])
    assert embedded[0]["prompt"] == EVIL[-1500:]


def test_pages_fetch_nothing_and_forbid_it(tmp_path: Path) -> None:
    write_run(tmp_path)
    library = load([tmp_path])
    page = token_page(library, library.runs[0], "gen", TokenTexts())
    assert page is not None
    for html in (tokens_page(page), leaderboard_page(build(library), runs=1)):
        assert "default-src 'none'" in html
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)


def test_the_table_is_marked_up_for_readers(tmp_path: Path) -> None:
    write_run(tmp_path)
    library = load([tmp_path])
    board = build(library)
    reader = _read(leaderboard_page(board, runs=1))
    heads = [attrs for tag, attrs in reader.tags if tag == "th"]
    columns = [attrs for attrs in heads if attrs.get("scope") == "col" and "aria-sort" in attrs]
    assert len([attrs for attrs in heads if attrs.get("scope") == "row"]) == len(board.entries)
    cells = [attrs for tag, attrs in reader.tags if tag in {"td", "th"} and "scope" not in attrs]
    own = [attrs for attrs in cells if "data-value" in attrs]
    assert len(own) == len(board.entries) * (len(columns) - 1)


def test_embedded_tokens_are_those_of_the_page(tmp_path: Path) -> None:
    write_run(tmp_path)
    library = load([tmp_path])
    page = token_page(library, library.runs[0], "mc", TokenTexts())
    assert page is not None
    embedded: list[Any] = json.loads(_read(tokens_page(page)).scripts[0])
    assert embedded == json.loads(json.dumps(page.documents))
