"""Writes the report's folder: tables, pictures and pages, each file whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from dynamax_lm.common.errors import SettingError, error_line
from dynamax_lm.common.outputs import write_bytes, write_text
from dynamax_lm.report import tables
from dynamax_lm.report.column import Column
from dynamax_lm.report.columns import COLUMNS
from dynamax_lm.report.figures import figures_of, safe
from dynamax_lm.report.leaderboard import Leaderboard, build
from dynamax_lm.report.load import Library
from dynamax_lm.report.metric_choice import one_metric_each
from dynamax_lm.report.page import leaderboard_page, side_by_side_page, tokens_page
from dynamax_lm.report.rows import Row
from dynamax_lm.report.runs import Run
from dynamax_lm.report.scatter import points_csv
from dynamax_lm.report.side_by_side import side_by_side
from dynamax_lm.report.tokens import token_page
from dynamax_lm.report.tokentext import TokenTexts
from dynamax_lm.report.verdict import Sentence, verdicts_of

Links = dict[tuple[str, str], str]
"""Pages relative to the report, by results file and task."""


class Written(NamedTuple):
    """A written report.

    Attributes:
        page: the leaderboard's page.
        rows: number of its rows.
        sentences: what was found, for each checkpoint and task.
    """

    page: Path
    rows: int
    sentences: list[Sentence]


def write_report(
    library: Library,
    folder: Path,
    *,
    baseline: Library | None = None,
    tokenizer: str | None = None,
    columns: Sequence[Column] = COLUMNS,
) -> Written:
    """Writes the whole report into ``folder``; damaged runs are left out, each with a line.

    Args:
        library: the runs.
        folder: created if missing; files of the same names are replaced.
        baseline: runs that every row is compared with, by document.
        tokenizer: folder or hub id for token texts; ``None`` for each run's own.
        columns: of the leaderboard.
    """
    given: dict[str, Any] = {"tokenizer": tokenizer, "columns": columns}
    try:
        return _written(library, folder, baseline, **given)
    except (OSError, SettingError):
        raise
    except Exception:  # a value that no check foresaw: dozens of kinds
        if not _leave_out_damaged(library, **given):
            raise
        return _written(library, folder, baseline, **given)


def _leave_out_damaged(library: Library, **given: Any) -> bool:
    """Leaves out the runs of which no report can be made, if others remain."""
    faults: dict[int, Exception] = {}
    for number, run in enumerate(library.runs):
        with TemporaryDirectory() as folder:
            try:
                _written(Library([run]), Path(folder), None, **given)
            except Exception as error:
                faults[number] = error
    if not faults or len(faults) == len(library.runs):
        return False
    for number, fault in faults.items():
        library.note(
            f"{library.runs[number].path}: damaged ({error_line(fault, 120)}); the run is left out"
        )
    library.runs = [run for number, run in enumerate(library.runs) if number not in faults]
    return True


def _written(
    library: Library,
    folder: Path,
    baseline: Library | None,
    *,
    tokenizer: str | None,
    columns: Sequence[Column],
) -> Written:
    board = build(library, baseline)
    _check_outside(board, columns)  # before anything is written
    rows = [entry.row for entry in board.entries]
    tokens = _token_pages(library, rows, folder, TokenTexts(tokenizer))
    beside = _side_by_side_pages(library, rows, folder, tokens)
    figures = list(figures_of(library, rows))
    for picture in (picture for some in figures for picture in some.pictures):
        write_bytes(folder / "pictures" / f"{picture.name}.png", picture.png)
        write_text(folder / "pictures" / f"{picture.name}.svg", picture.svg)
    for some in figures:
        if some.points:
            write_text(folder / "pictures" / some.data, points_csv(some.points))
    sentences = verdicts_of(board)
    opening = "".join(
        f"**{one.title}.** {one.text} Setting: {one.setting}.\n\n" for one in sentences
    )
    write_text(folder / "leaderboard.md", opening + tables.to_markdown(board, columns))
    write_text(folder / "leaderboard.csv", tables.to_csv(board, columns))
    write_text(folder / "leaderboard.json", tables.to_json(board, columns))
    ours = [run.early_exit for run in library.runs if run.early_exit]
    page = leaderboard_page(
        board,
        runs=len(library.runs),
        problems=library.problems,
        figures=figures,
        tokens=tokens,
        beside=beside,
        convention=str(ours[-1].get("convention", "")) if ours else "",
        columns=columns,
    )
    write_text(folder / "index.html", page)
    return Written(folder / "index.html", len(rows), sentences)


def _check_outside(board: Leaderboard, columns: Sequence[Column]) -> None:
    """Compute the columns from outside the package.

    Raises:
        SettingError: one of them fails.
    """
    for column in (one for one in columns if one.source):
        for entry in board.entries:
            try:
                column.value(entry)
                column.shown(entry)
                column.sorted_by(entry)
            except Exception as error:  # a stranger's code
                raise SettingError(
                    f"--columns {column.source}: {column.key} raises {error_line(error, 120)}"
                ) from error


def _token_pages(library: Library, rows: Sequence[Row], folder: Path, texts: TokenTexts) -> Links:
    """A page for every task with a trace, and the path of each, relative to the report."""
    links: Links = {}
    for row in rows:
        key = (str(row.run.path), row.task)
        if key in links:
            continue
        page = token_page(library, row.run, row.task, texts)
        if page is not None:
            name = f"tokens/{safe(row.task)}_{_stamp(row.run)}.html"
            write_text(folder / name, tokens_page(page))
            links[key] = name
    return links


def _side_by_side_pages(
    library: Library, rows: Sequence[Row], folder: Path, tokens: Links
) -> Links:
    """A page for every task and checkpoint with answers of several runs, and each run's link."""
    links: Links = {}
    names = Counter[str]()
    for group in one_metric_each(rows):
        page = side_by_side(library, group, tokens)
        if page is None:
            continue
        name = "_".join(map(safe, (page.checkpoint, page.task)))
        names[name] += 1
        name = f"compare/{name}" + (f"_{names[name]}" if names[name] > 1 else "") + ".html"
        write_text(folder / name, side_by_side_page(page))
        for number, row in enumerate(page.rows):
            links[str(row.run.path), row.task] = f"{name}#{number}"
    return links


def _stamp(run: Run) -> str:
    """Identifies a run: the time in the name of the results file."""
    return safe(run.path.stem.removeprefix("results_"))
