"""The argument parser of this package's commands.

An example at the end of the help, defaults beside the options, and the nearest option where a name
is unknown.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NoReturn

from dynamax_lm.common.errors import SettingError

_UNKNOWN = "unrecognized arguments: "
_MISSING = "the following arguments are required: "
_WIDTH = 79


def refuse_undecodable(arguments: Iterable[str]) -> None:
    """Refuse paths and other arguments that are not UTF-8, which results cannot contain.

    Raises:
        SettingError: names the first.
    """
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise SettingError(
                f"{shown}: this argument is not UTF-8, and results, which contain it, are: rename "
                f"the file or folder, or name it by a link"
            ) from None


def unknown_options(given: Iterable[str], known: Sequence[str]) -> list[str]:
    """Options among the words ``given``, without their values, that begin none of ``known``."""
    words = [word.partition("=")[0] for word in given if word.startswith("--")]
    return [word for word in words if not any(name.startswith(word) for name in known)]


def nearest_option(given: Iterable[str], known: Iterable[str]) -> tuple[str, str] | None:
    """The first of the words ``given`` that is near one of ``known``, and that one."""
    by_dashes = {one.replace("_", "-"): one for one in known}
    for word in given:
        name = word.partition("=")[0].replace("_", "-")
        if near := get_close_matches(name, by_dashes, n=1):
            return word, by_dashes[near[0]]
    return None


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
        self._given: list[str] = []
        super().__init__(
            prog=prog,
            description=textwrap.fill(description, _WIDTH),
            epilog="example:\n" + textwrap.indent(example, "  "),
            formatter_class=_Formatter,
            allow_abbrev=abbreviate,
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's.

        Raises:
            SettingError: an argument is not UTF-8.
        """
        self._given = list(sys.argv[1:] if args is None else args)
        refuse_undecodable(self._given)
        return super().parse_known_args(self._given, namespace)

    def error(self, message: str) -> NoReturn:
        """End the process with status 2 and one line; an unknown option brings the nearest one.

        Args:
            message: argparse's.
        """
        hint = "; --help lists the options"
        if message.startswith(_UNKNOWN):
            if found := self._nearest(message.removeprefix(_UNKNOWN).split()):
                hint = f"; did you mean {found[1]}?"
        elif message.startswith(_MISSING) and (found := self._nearest(self._unknown())):
            hint = f"; {found[0]} is unknown: did you mean {found[1]}?"
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}{hint}\n")

    def _unknown(self) -> list[str]:
        """Options of the command line, without their values, that begin the name of none."""
        return unknown_options(self._given, self._names())

    def _nearest(self, given: Iterable[str]) -> tuple[str, str] | None:
        """The first of these words that is near an option, and that option."""
        return nearest_option(given, self._names())

    def _names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]


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
