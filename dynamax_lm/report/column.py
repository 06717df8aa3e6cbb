"""A column of the leaderboard: its names, its positions in tables, and functions of a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynamax_lm.report.cells import NOTHING, percent
from dynamax_lm.report.leaderboard import Entry
from dynamax_lm.report.runs import Value

Plain = str | float | int | bool | None
"""A value in CSV and JSON; ``None`` where unknown."""

LAST = 1000
"""The position of a column after the package's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    >>> from types import SimpleNamespace
    >>> column = Column(key="model", value=lambda entry: entry.row.checkpoint, title="checkpoint")
    >>> column.value(SimpleNamespace(row=SimpleNamespace(checkpoint="tiny/mamba")))
    'tiny/mamba'

    Attributes:
        key: in CSV and JSON; small letters, digits and underscores.
        value: of a row, unrounded.
        stderr: its standard error, under the key with ``_stderr``; ``None`` for a column without.
        title: heading in tables.
        help: its explanation on the page.
        text: of a cell; by default the value.
        markdown: position in the Markdown table, ascending; 0 if not shown.
        page: position in the page's table, likewise.
        under: key of the column in whose cell the page shows it, in small print; empty for a
            column of its own.
        sweep: heading in a sweep's table, which shows the key's value in the results; empty if not
            shown.
        number: whether the page aligns it as a number.
        order: what the page sorts by; by default the value.
        css: the page's class of a cell.
        link: target of a cell of the page, relative to the page; empty for none.
        source: name and digest of a column from outside the package.
    """

    key: str
    value: Callable[[Entry], Plain]
    stderr: Callable[[Entry], float | None] | None = None
    title: str = ""
    help: str = ""
    text: Callable[[Entry], str] | None = None
    markdown: int = LAST
    page: int = LAST
    under: str = ""
    sweep: str = ""
    number: bool = False
    order: Callable[[Entry], str] | None = None
    css: Callable[[Entry], str] = lambda entry: ""
    link: Callable[[Entry], str] = lambda entry: ""
    source: str = ""

    def shown(self, entry: Entry) -> str:
        """The text of the cell."""
        if self.text is not None:
            return self.text(entry)
        value = self.value(entry)
        return NOTHING if value is None or value == "" else str(value)

    def sorted_by(self, entry: Entry) -> str:
        """What the page sorts the cell by."""
        if self.order is not None:
            return self.order(entry)
        value = self.value(entry)
        return "" if value is None else repr(value) if self.number else str(value)


def fact(key: str, value: Callable[[Entry], Plain], **more: Any) -> Column:
    """A column without a standard error, in no table unless its position is given."""
    given: dict[str, Any] = {"key": key, "value": value, "markdown": 0, "page": 0, **more}
    return Column(**given)


def metric(key: str, written: Callable[[Value | None], str] = percent, **more: Any) -> Column:
    """A number of the results, with its standard error."""

    def of(entry: Entry) -> Value | None:
        value: Value | None = getattr(entry.row, key)
        return value

    given: dict[str, Any] = {
        "key": key,
        "value": lambda entry: None if (one := of(entry)) is None else one.mean,
        "stderr": lambda entry: None if (one := of(entry)) is None else one.stderr,
        "text": lambda entry: written(of(entry)),
        "markdown": 0,
        "page": 0,
        "number": True,
        **more,
    }
    return Column(**given)
