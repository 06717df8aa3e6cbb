"""The report's folder: tables, pictures and pages, each file whole or absent.

Owns file names. It does not know how anything looks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dynamax_lm.report import tables
from dynamax_lm.report.columns import COLUMNS, Column
from dynamax_lm.report.figures import figures_of, safe
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import Library
from dynamax_lm.report.page import leaderboard_page, tokens_page
from dynamax_lm.report.rows import Row
from dynamax_lm.report.runs import Run
from dynamax_lm.report.tokens import token_page
from dynamax_lm.report.tokentext import TokenTexts


class Written(NamedTuple):
    """What was written.

    Attributes:
        page: the leaderboard's page.
        rows: how many it has.
    """

    page: Path
    rows: int


def write_report(
    library: Library,
    folder: Path,
    *,
    baseline: Library | None = None,
    tokenizer: str | None = None,
    columns: Sequence[Column] = COLUMNS,
) -> Written:
    """Writes the whole report into ``folder``.

    Args:
        library: the runs.
        folder: created if missing; files of the same names are replaced.
        baseline: runs that every row is compared with, by document.
        tokenizer: folder or hub id for token texts; ``None`` for each run's own.
        columns: of the leaderboard.
    """
    board = build(library, baseline)
    rows = [entry.row for entry in board.entries]
    links = _token_pages(library, rows, folder, TokenTexts(tokenizer))
    figures = list(figures_of(library, rows))
    for picture in (picture for some in figures for picture in some.pictures):
        write_whole(folder / "pictures" / f"{picture.name}.png", picture.png)
        write_whole(folder / "pictures" / f"{picture.name}.svg", picture.svg.encode())
    write_whole(folder / "leaderboard.md", tables.to_markdown(board, columns).encode())
    write_whole(folder / "leaderboard.csv", tables.to_csv(board, columns).encode())
    write_whole(folder / "leaderboard.json", tables.to_json(board, columns).encode())
    ours = [run.early_exit for run in library.runs if run.early_exit]
    page = leaderboard_page(
        board,
        runs=len(library.runs),
        problems=library.problems,
        figures=figures,
        links=links,
        convention=str(ours[-1].get("convention", "")) if ours else "",
        columns=columns,
    )
    write_whole(folder / "index.html", page.encode())
    return Written(folder / "index.html", len(rows))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, and renames it when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _token_pages(
    library: Library, rows: Sequence[Row], folder: Path, texts: TokenTexts
) -> dict[tuple[str, str], str]:
    """A page for every task with a trace; where each is, relative to the report."""
    links: dict[tuple[str, str], str] = {}
    for row in rows:
        key = (str(row.run.path), row.task)
        if key in links:
            continue
        page = token_page(library, row.run, row.task, texts)
        if page is not None:
            name = f"tokens/{safe(row.task)}_{_stamp(row.run)}.html"
            write_whole(folder / name, tokens_page(page).encode())
            links[key] = name
    return links


def _stamp(run: Run) -> str:
    """Tells runs apart: the time in the name of the results file."""
    return safe(run.path.stem.removeprefix("results_"))
