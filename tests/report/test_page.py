"""Pages: what an answer holds is text, never markup, and nothing is fetched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from synthetic import Plan, write_run

from dynamax_lm.report.columns import COLUMNS
from dynamax_lm.report.figures import figures_of
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.page import leaderboard_page, tokens_page
from dynamax_lm.report.tokens import token_page
from dynamax_lm.report.tokentext import TokenTexts
from dynamax_lm.report.verdict import verdicts_of

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


def test_the_page_opens_with_sentences_then_pictures_then_the_table(tmp_path: Path) -> None:
    for threshold in (0.3, 0.6):
        write_run(tmp_path / str(threshold), Plan(threshold=threshold))
    library = load([tmp_path])
    board = build(library)
    rows = [entry.row for entry in board.entries]
    figures = list(figures_of(library, rows))
    html = leaderboard_page(board, runs=2, figures=figures)
    sentences = verdicts_of(board)
    assert len(sentences) == 2
    for sentence in sentences:
        assert html.index(sentence.title) < html.index('<svg class="scatter"')
    assert html.index('<svg class="scatter"') < html.index("<table")
    assert html.count('<svg class="scatter"') == len(figures)
    assert html.count("<img") == sum(len(one.pictures) for one in figures)


def test_small_print_has_what_has_no_column_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path)
    library = load([tmp_path])
    board = build(library)
    reader = _read(leaderboard_page(board, runs=1))
    heads = [attrs for tag, attrs in reader.tags if tag == "th" and "aria-sort" in attrs]
    assert len(heads) <= 11, "more columns do not fit 1,280 pixels"
    parts = [attrs for tag, attrs in reader.tags if tag == "div" and "data-key" in attrs]
    keys = {attrs["data-key"] for attrs in parts}
    told = {one.key for one in COLUMNS if one.page and any(map(one.value, board.entries))}
    assert told <= keys
    offered = {attrs["value"] for tag, attrs in reader.tags if tag == "option" and "value" in attrs}
    assert keys <= offered
    assert len(parts) == len(board.entries) * len(keys)


def test_both_pages_have_a_dark_mode_with_enough_contrast(tmp_path: Path) -> None:
    """WCAG AA: at least 4.5 to 1 for text of either scheme on its paper."""
    write_run(tmp_path)
    library = load([tmp_path])
    page = token_page(library, library.runs[0], "gen", TokenTexts())
    assert page is not None
    for html in (tokens_page(page), leaderboard_page(build(library), runs=1)):
        assert "color-scheme: light dark" in html
        light, dark = re.findall(r":root \{([^}]*--paper[^}]*)\}", html)[:2]
        assert "prefers-color-scheme: dark" in html
        for scheme in (light, dark):
            colours = dict(re.findall(r"--(\w+): (#[0-9a-f]+)", scheme))
            for name in ("ink", "soft", "mark", "good", "link"):
                assert _contrast(colours[name], colours["paper"]) >= 4.5
            assert _contrast(colours["ink"], colours["head"]) >= 4.5
            assert _contrast(colours["ink"], colours["alert"]) >= 4.5


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_what_is_left_out_of_a_prompt_is_said_and_the_gold_answer_is_there(tmp_path: Path) -> None:
    made = write_run(tmp_path)
    path = made.samples["gen"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["target"] = f"gold {number}"
        line["arguments"]["gen_args_0"]["arg_0"] = "x" * (1400 + 100 * number)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    library = load([tmp_path])
    page = token_page(library, library.runs[0], "gen", TokenTexts())
    assert page is not None
    for number, doc in enumerate(page.documents):
        assert doc["gold"] == f"gold {number}"
        assert len(doc["prompt"]) + doc["omitted"] == 1400 + 100 * number
    html = tokens_page(page)
    assert "earlier characters are not shown" in html
    assert "no exit: all of" in html
