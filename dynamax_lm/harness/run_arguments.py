"""The command line of ``lm_eval run``, looked at before weights load.

lm-eval continues after a file that it cannot write, so that a wrong ``--output_path`` loses a run,
and it ends with a traceback where ``--limit`` or ``--seed`` is no such number.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import refuse_undecodable
from dynamax_lm.common.outputs import writable_folder
from dynamax_lm.harness.plugin.errors import is_lm_eval

_SEEDS = 1 << 32
"""Numpy takes no larger ones."""


def check_run_arguments() -> None:
    """Refuse arguments that would lose or end a ``lm_eval run``; nothing elsewhere.

    Raises:
        SettingError: an argument that is not UTF-8, an output path that cannot be written, or a
            limit or seed out of range.
    """
    if not is_lm_eval():
        return
    refuse_undecodable(sys.argv[1:])
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--output_path", "-o")
    parser.add_argument("--limit", "-L", type=float)
    parser.add_argument("--seed", default="")
    try:
        given = parser.parse_known_args(sys.argv[1:])[0]
    except argparse.ArgumentError:
        return  # lm-eval's own parser tells
    if given.output_path is not None:
        path = Path(given.output_path)  # one that ends in .json names the file itself
        writable_folder(path.parent if path.suffix == ".json" else given.output_path)
    if given.limit is not None and not 0 <= given.limit < math.inf:
        raise SettingError(f"--limit {given.limit:g}: give a number of documents, or leave it out")
    check_seeds(map(_whole_number, given.seed.split(",")))


def _whole_number(word: str) -> int | None:
    try:
        return int(word)
    except ValueError:
        return None  # lm-eval's own parser tells, or knows it


def check_seeds(seeds: Iterable[int | None]) -> None:
    """Refuse seeds that numpy would not take.

    Raises:
        SettingError: names the first.
    """
    for seed in seeds:
        if seed is not None and not 0 <= seed < _SEEDS:
            raise SettingError(f"--seed {seed}: give whole numbers in 0..{_SEEDS - 1}")
