"""The argument parser of this package's commands.

An example at the end of the help, defaults beside the options, and the nearest option where a name
is unknown.
"""

from __future__ import annotations

import argparse
import textwrap
from difflib import get_close_matches
from typing import NoReturn

_UNKNOWN = "unrecognized arguments: "
_WIDTH = 79


class CommandParser(argparse.ArgumentParser):
    """The parser of one command, such as ``python -m dynamax_lm.sweep``."""

    def __init__(self, prog: str, description: str, example: str, *, abbreviate: bool = True):
        """Build a parser without options.

        Args:
            prog: the command, as it is called.
            description: what it answers, in one or two sentences.
            example: one call of it, which may continue over lines.
            abbreviate: whether an option may be given by the beginning of its name.
        """
        self.example = example
        super().__init__(
            prog=prog,
            description=textwrap.fill(description, _WIDTH),
            epilog="example:\n" + textwrap.indent(example, "  "),
            formatter_class=_Formatter,
            allow_abbrev=abbreviate,
        )

    def error(self, message: str) -> NoReturn:
        """End the process with status 2; an unknown option is told with the nearest one.

        Args:
            message: argparse's.
        """
        if message.startswith(_UNKNOWN):
            given = message.removeprefix(_UNKNOWN).split()
            known = [name for action in self._actions for name in action.option_strings]
            for word in given:
                name = word.partition("=")[0].replace("_", "-")
                by_dashes = {one.replace("_", "-"): one for one in known}
                if near := get_close_matches(name, by_dashes, n=1):
                    message += f"; did you mean {by_dashes[near[0]]}?"
                    break
        super().error(message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Defaults where there is one to tell and the text does not tell it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text is None or "default" in text or not action.option_strings:
            return text
        value = action.default
        if value is None or isinstance(value, bool) or value in ("", argparse.SUPPRESS):
            return text
        if value == []:
            return text
        return f"{text} (default: %(default)s)"
