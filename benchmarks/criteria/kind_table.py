"""``python -m benchmarks.criteria.kind_table``: kinds of heads side by side, over all seeds.

    python -m benchmarks.criteria.kind_table "SmolLM2, answers of the tasks=smollm2-looks.json"

Each file is the results of ``benchmarks.criteria`` or ``benchmarks.real`` with several seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.criteria.column import MIDDLE
from benchmarks.criteria.kinds import Kind, kind_of
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.harness.command_line import run_command

MAMBA = Kind("mamba", "narrow").name
OTHERS = (Kind("linear", "full").name, Kind("ffn", "narrow").name)


def table(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """What each kind saves at the middle target, seed by seed, and what a Mamba head saves more.

    Args:
        studies: results by the title of their rows.
    """
    header = ["backbone and text", "translators", *(f"`{one}`" for one in (*OTHERS, MAMBA))]
    differences = [f"`{MAMBA}` less `{one}`" for one in OTHERS]
    rows = [row for title, results in studies.items() for row in _rows(title, results)]
    return markdown_table([*header, *differences], rows)


def _rows(title: str, results: Mapping[str, Any]) -> Iterator[list[str]]:
    pairs = {
        (one["translators"], one["first"], one["second"]): one for one in results["pairs_of_kinds"]
    }
    for translators in results["columns"]:
        saved: dict[str, list[float]] = {}
        for line in results["lines"]:
            if line["translators"] == translators and line["target"] == MIDDLE:
                saved.setdefault(kind_of(line["rule"]), []).append(100 * line["saved"])
        if MAMBA not in saved:
            continue
        seeds = [f"{', '.join(f'{one:.1f}' for one in saved[kind])} %" for kind in (*OTHERS, MAMBA)]
        found = (pairs[translators, MAMBA, other] for other in OTHERS)
        yield [title, translators, *seeds, *map(_difference, found)]


def _difference(pair: Mapping[str, Any]) -> str:
    low, high = pair["difference_interval"]
    return f"{100 * pair['difference']:+.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.criteria.kind_table")
    parser.add_argument("studies", nargs="+", metavar="TITLE=FILE")
    given = (one.rpartition("=") for one in parser.parse_args(argv).studies)
    print(table({title: json.loads(Path(file).read_text("utf-8")) for title, _, file in given}))


if __name__ == "__main__":
    run_command(main)
