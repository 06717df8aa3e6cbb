"""The report as HTML: the leaderboard, and pages of answers, token by token and side by side.

This module fills the templates. Pages need no network, and their content policy forbids any.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from dynamax_lm import __version__
from dynamax_lm.common.intervals import LEVEL
from dynamax_lm.common.plots import shades
from dynamax_lm.report import tables
from dynamax_lm.report.cells import NOTHING, date_of, metric_name
from dynamax_lm.report.column import Column
from dynamax_lm.report.columns import COLUMNS
from dynamax_lm.report.figures import Figures
from dynamax_lm.report.leaderboard import Entry, Leaderboard
from dynamax_lm.report.metric_choice import place_of
from dynamax_lm.report.rows import Row
from dynamax_lm.report.scatter import LEFT, RIGHT, WIDTH, scatter_of
from dynamax_lm.report.side_by_side import SideBySide
from dynamax_lm.report.tokens import TokenPage
from dynamax_lm.report.verdict import verdicts_of

Links = Mapping[tuple[str, str], str]
"""Pages relative to the leaderboard, by results file and task."""


class _Line(NamedTuple):
    """A text of a cell; ``of`` names its metric, where a cell has several texts."""

    text: str
    css: str = ""
    link: str = ""
    of: str = ""


class _Cell(NamedTuple):
    """A column's texts in a row; ``value`` is what the row is sorted by."""

    lines: list[_Line]
    value: str
    number: bool
    key: str
    title: str


@dataclass(frozen=True, slots=True)
class _Shown:
    """A row for the template, of one task in one setting, with every metric of the task.

    Attributes:
        task: the task.
        metrics: their names, in the task's order.
        checkpoint: the weights.
        kind: how depth is determined.
        css: classes of the row.
        anchors: names in links, one for each metric.
        cells: each a main value and the small print under it.
    """

    task: str
    metrics: list[str]
    checkpoint: str
    kind: str
    css: str
    anchors: list[str]
    cells: list[list[_Cell]]


_OF_A_METRIC = frozenset({"quality", "full_depth"})
"""Columns whose values are told for each metric, also where they are equal."""

EMBEDDED = 6 << 20
"""Bytes of pictures embedded in the page: about ninety tasks of four."""


def leaderboard_page(
    board: Leaderboard,
    *,
    runs: int,
    problems: Sequence[str] = (),
    figures: Sequence[Figures] = (),
    tokens: Links | None = None,
    beside: Links | None = None,
    convention: str = "",
    verification: str = "",
    columns: Sequence[Column] = COLUMNS,
) -> str:
    """The page of the whole report.

    Args:
        board: rows and comparisons.
        runs: number of runs read.
        problems: one line for each file that could not be read.
        figures: pictures under their headings. The first ``EMBEDDED`` bytes of them are embedded,
            the others are linked in the folder ``pictures/``.
        tokens: the token page of a results file's task, relative to this page.
        beside: its place on the page of several runs' answers, likewise.
        convention: of the FLOPs, from the results.
        verification: the result of a verification, in a sentence.
        columns: of the table; empty ones are omitted.
    """
    read = [
        _pages("answers", "token by token", "answers token by token", tokens or {}),
        _pages("compared", "side by side", "answers beside those of other settings", beside or {}),
    ]
    every = sorted([*columns, *read], key=lambda one: one.page)
    every = [column for column in every if column.page and _is_told(column, board.entries)]
    groups = _groups(every)
    rows = [_shown(entries, groups) for entries in _settings(board.entries)]
    answers = {**(tokens or {}), **(beside or {})}

    def link(row: Row) -> str:
        """The row's answers, beside others' if possible, or its place in the table."""
        return answers.get((str(row.run.path), row.task), f"#{_anchor(row)}")

    return _template("index.html.j2").render(
        rows=rows,
        columns=[group[0] for group in groups],
        sortable=every,
        verdicts=verdicts_of(board),
        nothing=NOTHING,
        filters=_filters(rows),
        runs=runs,
        problems=problems,
        convention=convention,
        verification=verification,
        level=f"{LEVEL:.0%}",
        looked=tables.looked_text(board),
        version=__version__,
        date=date_of(datetime.now(tz=UTC).timestamp()),
        apart=board.apart,
        comparisons=[
            {**tables.comparison_record(one), "text": tables.difference_text(one)}
            for one in board.comparisons
        ],
        figures=[
            (some.heading, sources, scatter_of(some.points, link), f"pictures/{some.data}")
            for some, (_, sources) in zip(figures, _sources(figures), strict=True)
        ],
        sizes={"width": WIDTH, "left": LEFT, "right": RIGHT},
    )


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    """The columns of the table, each with those that are shown under it."""
    own = {column.key for column in columns if not column.under}
    return [
        [one, *(other for other in columns if other.under == one.key)]
        for one in columns
        if one.under not in own
    ]


def _filters(rows: Sequence[_Shown]) -> list[tuple[str, str, list[str]]]:
    """Attributes of rows that a reader can choose by: name, heading and values."""
    values = {
        "task": {row.task for row in rows},
        "metric": {metric for row in rows for metric in row.metrics},
        "checkpoint": {row.checkpoint for row in rows},
        "kind": {str(row.kind) for row in rows},
    }
    return [(name, name.capitalize(), sorted(some)) for name, some in values.items()]


def tokens_page(page: TokenPage) -> str:
    """The page of one task's answers."""
    colours = shades(len(page.depths))
    return _template("tokens.html.j2").render(
        task=page.task,
        checkpoint=page.checkpoint,
        setting=page.setting,
        leaderboard=page.leaderboard,
        layers=page.layers,
        texts=page.texts,
        scored=page.scored,
        lossless=page.lossless,
        documents=page.documents,
        shades=[
            {"layer": layer, "paper": shade.paper, "ink": shade.ink}
            for layer, shade in zip(page.depths, colours, strict=True)
        ],
    )


def side_by_side_page(page: SideBySide) -> str:
    """The page of several runs' answers to one task."""
    return _template("side_by_side.html.j2").render(page=page, leaderboard="../index.html")


def _sources(figures: Sequence[Figures]) -> list[tuple[str, list[dict[str, str | bool]]]]:
    """Every picture for the template: embedded up to the limit, else its file's name."""
    room, shown = EMBEDDED, []
    for heading, pictures, _ in figures:
        sources: list[dict[str, str | bool]] = []
        for picture in pictures:
            room -= len(picture.png)
            data = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
            beside = f"pictures/{picture.name}.png"
            sources.append(
                {
                    "title": picture.title,
                    "description": picture.description,
                    "source": data if room >= 0 else beside,
                    "drawing": f"pictures/{picture.name}.svg",
                    "beside": room < 0,
                }
            )
        shown.append((heading, sources))
    return shown


def _pages(title: str, text: str, told: str, links: Links) -> Column:
    """The column of links to the pages of a row."""

    def link(entry: Entry) -> str:
        return links.get((str(entry.row.run.path), entry.row.task), "")

    return Column(
        key=title,
        value=lambda entry: "",
        title=title,
        help=told,
        text=lambda entry: text if link(entry) else NOTHING,
        link=link,
        page=5,
        under="setting",
    )


def _is_told(column: Column, entries: Sequence[Entry]) -> bool:
    """Whether any row has something in the column."""
    return any(column.shown(entry) not in {NOTHING, ""} for entry in entries)


def _settings(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries of one task in one setting, its metrics in the task's order."""
    settings: dict[object, list[Entry]] = {}
    for entry in entries:
        row = entry.row
        key = (row.run.path, row.task, row.checkpoint, row.setting, row.conditions)
        settings.setdefault(key, []).append(entry)
    return [sorted(some, key=lambda entry: place_of(entry.row)) for some in settings.values()]


def _shown(entries: Sequence[Entry], groups: Sequence[Sequence[Column]]) -> _Shown:
    row = entries[0].row
    css = "best" if any(any(entry.marks) for entry in entries) else ""
    return _Shown(
        task=row.task,
        metrics=list(dict.fromkeys(entry.row.key.metric for entry in entries)),
        checkpoint=row.checkpoint,
        kind=row.kind,
        css=f"{css} {row.kind}".strip(),
        anchors=[_anchor(entry.row) for entry in entries],
        cells=[[_cell(entries, column) for column in group] for group in groups],
    )


def _cell(entries: Sequence[Entry], column: Column) -> _Cell:
    """The column's text, or one for each metric where it depends on it; sorted by the first."""
    lines = [_Line(column.shown(one), column.css(one), column.link(one)) for one in entries]
    if (len(set(lines)) == 1 and column.key not in _OF_A_METRIC) or not entries[1:]:
        lines = lines[:1]
    elif column.key != "metric":
        names = (metric_name(one).rpartition(" ")[0] for one in entries)
        lines = [line._replace(of=name) for line, name in zip(lines, names, strict=True)]
    value = column.sorted_by(entries[0])
    return _Cell(lines, value, column.number, column.key, column.title)


def _anchor(row: Row) -> str:
    """The row's name in links."""
    key = (str(row.run.path), row.task, row.key, row.setting)
    return f"row-{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}"


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dynamax_lm.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template(name)


def _breakable(text: str) -> Markup:
    """The text, with places for a line break in names, after underscores and slashes."""
    return Markup("<wbr>").join(re.split(r"(?<=[_/])", text))
