"""The error for wrong settings, which the command line prints as one line.

The other functions fold messages of other libraries' errors into such a line.
"""

from __future__ import annotations


class SettingError(ValueError):
    """A wrong setting: names the value, what is allowed, and the fix.

    >>> import dynamax_lm
    >>> try:
    ...     dynamax_lm.load("tiny", threshold=2)
    ... except dynamax_lm.SettingError as error:
    ...     print(error)
    threshold=2: out of range; give a number in [0, 1]
    """


def first_line(error: object, most: int = 200) -> str:
    """The first line of an error's message that is not empty, at most ``most`` characters."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), "no message")[:most]


def one_line(value: object, most: int | None = None) -> str:
    """A text with its line breaks and runs of blanks folded, at most ``most`` characters."""
    return " ".join(str(value).split())[:most]


def error_line(error: BaseException, most: int = 200) -> str:
    """An error's class and whole message as one line, at most ``most`` characters."""
    return one_line(f"{type(error).__name__}: {error}", most)
