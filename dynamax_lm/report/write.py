"""The report's folder: tables, pictures and pages, each file whole or absent.

Owns file names and what is drawn of what. It does not know how anything looks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dynamax_lm.report import pictures, tables
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import Library
from dynamax_lm.report.page import leaderboard_page, tokens_page
from dynamax_lm.report.pictures import Picture
from dynamax_lm.report.reliability import reliability_curve
from dynamax_lm.report.rows import Row, arenas, setting_of
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
) -> Written:
    """Writes the whole report into ``folder``.

    Args:
        library: the runs.
        folder: created if missing; files of the same names are replaced.
        baseline: runs that every row is compared with, by document.
        tokenizer: folder or hub id for token texts; ``None`` for each run's own.
    """
    board = build(library, baseline)
    rows = [entry.row for entry in board.entries]
    links = _token_pages(library, rows, folder, TokenTexts(tokenizer))
    figures = [(_heading(arena), _drawn(library, arena)) for arena in _first_metrics(rows)]
    for picture in (picture for _, some in figures for picture in some):
        write_whole(folder / "pictures" / f"{picture.name}.png", picture.png)
        write_whole(folder / "pictures" / f"{picture.name}.svg", picture.svg.encode())
    write_whole(folder / "leaderboard.md", tables.to_markdown(board).encode())
    write_whole(folder / "leaderboard.csv", tables.to_csv(board).encode())
    write_whole(folder / "leaderboard.json", tables.to_json(board).encode())
    ours = [run.early_exit for run in library.runs if run.early_exit]
    page = leaderboard_page(
        board,
        runs=len(library.runs),
        problems=library.problems,
        figures=[(heading, some) for heading, some in figures if some],
        links=links,
        convention=str(ours[-1].get("convention", "")) if ours else "",
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
            name = f"tokens/{_safe(row.task)}_{_stamp(row.run)}.html"
            write_whole(folder / name, tokens_page(page).encode())
            links[key] = name
    return links


def _first_metrics(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each task's first metric, by what may be compared, where exits took part."""
    seen: dict[object, list[Row]] = {}
    for arena in arenas(rows):
        checkpoint, task, _, conditions = arena[0].arena
        drawable = any(row.flops_saved is not None for row in arena)
        best = seen.get((checkpoint, task, conditions))
        if drawable and (best is None or _spread(arena) > _spread(best)):
            seen[checkpoint, task, conditions] = arena
    return list(seen.values())


def _spread(arena: Sequence[Row]) -> float:
    """How far the metric's values lie apart: a metric that is always 0 shows nothing."""
    values = [row.quality.mean for row in arena]
    return max(values) - min(values)


def _drawn(library: Library, arena: Sequence[Row]) -> list[Picture]:
    name = "_".join(_safe(str(part)) for part in (arena[0].checkpoint, arena[0].task))
    curves = []
    for row in _widest(arena):
        if lines := library.trace(row.run, row.task):
            curves.append(reliability_curve(setting_of(row.run), lines, row.run.layers or 0))
    drawn = (
        pictures.trade_off(f"{name}_saved", arena),
        pictures.depths(f"{name}_depths", arena),
        pictures.ledger(f"{name}_ledger", arena),
        pictures.reliability(f"{name}_reliability", _heading(arena), curves),
    )
    return [picture for picture in drawn if picture is not None]


def _widest(arena: Sequence[Row]) -> list[Row]:
    """Of each measure the run of the lowest threshold, which shows most of its range."""
    chosen: dict[str, Row] = {}
    for row in (row for row in arena if row.kind in {"dynamic", "static"}):
        name = pictures.measure_of(row)
        if name not in chosen or _threshold(row) < _threshold(chosen[name]):
            chosen[name] = row
    return list(chosen.values())


def _threshold(row: Row) -> float:
    return float(row.run.settings["threshold"])


def _heading(arena: Sequence[Row]) -> str:
    return f"{arena[0].checkpoint}, {arena[0].task}"


def _stamp(run: Run) -> str:
    """Tells runs apart: the time in the name of the results file."""
    return _safe(run.path.stem.removeprefix("results_"))


def _safe(text: str) -> str:
    return re.sub(r"[^\w.+=-]", "_", text)
