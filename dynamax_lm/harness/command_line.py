"""lm-eval's command line: the options of ``lm_eval run``, and its parsing of values."""

from __future__ import annotations

import argparse
from typing import Any


def run_options() -> dict[str, argparse.Action]:
    """The options of ``lm_eval run`` by their name, as lm-eval defines them."""
    from lm_eval._cli.run import Run

    parser = Run(argparse.ArgumentParser().add_subparsers())._parser
    return {action.dest: action for action in parser._actions}


def split_values(text: str) -> list[str]:
    """The pieces of ``text`` at commas outside brackets."""
    from lm_eval._cli.utils import split_top_level

    return [piece.strip() for piece in split_top_level(text)]


def read_value(text: str) -> Any:
    """A value as lm-eval reads that of a model argument: a number, a switch, a list or text."""
    from lm_eval._cli.utils import handle_cli_value_string

    return handle_cli_value_string(text)
