"""``python -m dynamax_lm.report``: reads results folders, writes a report, or verifies one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import CommandParser
from dynamax_lm.harness.plugin.errors import install_one_line_errors

if TYPE_CHECKING:
    from dynamax_lm.report.load import Library


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, or 1 where a published number does not match.

    Raises:
        SettingError: nothing could be read, or nothing verified.
    """
    install_one_line_errors()
    given = parser().parse_args(arguments)
    from dynamax_lm.common.outputs import claimed, writable_folder
    from dynamax_lm.common.plots import require_matplotlib
    from dynamax_lm.report.columns import with_outside
    from dynamax_lm.report.load import load

    folder = None
    if not given.verify or given.output_path is not None:
        require_matplotlib()
        folder = writable_folder("report" if given.output_path is None else given.output_path)
    columns = with_outside(given.columns)
    library = load(given.results)
    if given.verify:
        status = _verify(library, given)
        if folder is None:
            return status
    else:
        status = 0
    from dynamax_lm.report.write import write_report

    baseline = load([given.baseline]) if given.baseline else None
    assert folder is not None
    try:
        with claimed(folder):
            written = write_report(
                library, folder, baseline=baseline, tokenizer=given.tokenizer, columns=columns
            )
    except OSError as error:
        raise SettingError(f"--output_path {folder}: cannot be written to ({error})") from error
    _complain(library.problems)
    for one in written.sentences:
        sys.stdout.write(f"{one.title}: {one.text}\n")
    sys.stdout.write(
        f"{written.rows} rows of {len(library.runs)} runs. Open first: {written.page}\n"
    )
    return status


def _verify(library: Library, given: argparse.Namespace) -> int:
    from dynamax_lm.report.checks.rerun import in_words
    from dynamax_lm.report.verify import verify

    found = verify(library)
    _complain(library.problems)
    for line in found.unchecked:
        sys.stdout.write(f"not checked: {line}\n")
    for line in in_words():
        sys.stdout.write(f"only a re-run could show: {line}\n")
    for line in found.mismatches:
        sys.stdout.write(f"does not match: {line}\n")
    sys.stdout.write(
        f"{found.checked} values recomputed, {len(found.mismatches)} do not match, "
        f"{len(found.unchecked)} kinds not checked\n"
    )
    if not found.checked and not found.mismatches:
        raise SettingError("--verify: none of these runs has numbers of ours to recompute")
    return 1 if found.mismatches else 0


def _complain(problems: Sequence[str]) -> None:
    for line in problems:
        sys.stderr.write(f"dynamax_lm: {line}\n")


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        prog="python -m dynamax_lm.report",
        description="Leaderboard, pictures and token pages from any mix of lm-eval results "
        "folders, ours and plain ones. Needs no model and no GPU.",
        example="python -m dynamax_lm.report results/ --output_path report/",
    )
    made.add_argument(
        "results", nargs="+", type=Path, help="folders that --output_path named, or results files"
    )
    page = made.add_argument_group("page")
    page.add_argument(
        "--output_path",
        metavar="<folder>",
        help="folder to write (default: report, unless --verify)",
    )
    page.add_argument(
        "--baseline",
        type=Path,
        metavar="<folder>",
        help="results that every setting is compared with, by document",
    )
    page.add_argument(
        "--tokenizer",
        metavar="<name>",
        help="folder or hub id, for token texts (default: each run's own, if it is here)",
    )
    page.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="FILE.py:NAME",
        help="further columns of the leaderboard, each a Column of a Python file",
    )
    made.add_argument_group("verification").add_argument(
        "--verify",
        action="store_true",
        help="hold results, samples and traces against each other and their manifest; "
        "status 1 if anything differs",
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
