"""The leaderboard's columns: each one object, read by every table, file and page.

A column has its names, its positions in tables, and functions of a row. Its position in ``COLUMNS``
is that in CSV and JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.extensions import load, read_reference
from dynamax_lm.report.cells import (
    NOTHING,
    agreement_text,
    baseline_of,
    baseline_text,
    date_of,
    layers_text,
    metric_name,
    pareto_text,
    percent,
    setting_text,
    shown,
    speedup_of,
)
from dynamax_lm.report.leaderboard import Entry
from dynamax_lm.report.runs import Value
from dynamax_lm.report.speed import tokens_per_second
from dynamax_lm.report.static_baseline import ACCOUNTS, Account, StaticBaseline

Plain = str | float | int | bool | None
"""A value in CSV and JSON; ``None`` where unknown."""

LAST = 1000
"""The position of a column after the package's own."""

_NO_VERDICT = frozenset({"unknown", "not tested", "not distinguishable"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

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


def _fact(key: str, value: Callable[[Entry], Plain], **more: Any) -> Column:
    """A column without a standard error, in no table unless its position is given."""
    given: dict[str, Any] = {"key": key, "value": value, "markdown": 0, "page": 0, **more}
    return Column(**given)


def _metric(key: str, written: Callable[[Value | None], str] = percent, **more: Any) -> Column:
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


BASELINES: dict[Account, str] = {
    "answer": "fixed depth of equal answer FLOPs",
    "total": "fixed depth of equal total FLOPs",
}
"""Names of the static baseline's columns."""
_PREFIXES: dict[Account, str] = {"answer": "static", "total": "static_total"}
_HELP: dict[Account, str] = {
    "answer": "the fixed depth whose answers cost the same",
    "total": "the same with prompts: k layers prefill k layers",
}


def _baseline(account: Account) -> list[Column]:
    """The columns of a static baseline; the verdict's cell shows all of it."""
    prefix = _PREFIXES[account]

    def part(
        name: str, read: Callable[[StaticBaseline], Plain], empty: Plain, **more: Any
    ) -> Column:
        def value(entry: Entry) -> Plain:
            baseline = baseline_of(entry, account)
            return read(baseline) if baseline else empty

        return _fact(f"{prefix}_{name}", value, **more)

    def css(entry: Entry) -> str:
        baseline = baseline_of(entry, account)
        verdict = baseline.verdict if baseline else ""
        return "soft" if verdict in _NO_VERDICT else {"": "", "beats": "good"}.get(verdict, "bad")

    place = ACCOUNTS.index(account)
    return [
        part("depth", lambda one: one.depth, None),
        part("quality", lambda one: one.quality, None),
        part("agreement", lambda one: one.agreement, None),
        part("source", lambda one: one.source, ""),
        part(
            "verdict",
            lambda one: one.verdict,
            "",
            title=BASELINES[account],
            help=_HELP[account],
            text=lambda entry: baseline_text(baseline_of(entry, account), entry.row.agreement),
            css=css,
            markdown=16 + place,
            page=12 + place,
        ),
        part("told_by", lambda one: " ".join(one.told_by), ""),
        part("row_agreement", lambda one: one.row_agreement, None),
    ]


COLUMNS: tuple[Column, ...] = (
    _fact("task", lambda e: e.row.task, title="task", help="sort by task", markdown=1, page=1),
    _fact(
        "metric",
        lambda e: e.row.key.metric,
        title="metric",
        help="the arrow shows the better way",
        text=metric_name,
        markdown=2,
        page=2,
        under="task",
    ),
    _fact("filter", lambda e: e.row.key.filter),
    _fact(
        "checkpoint",
        lambda e: e.row.checkpoint,
        title="checkpoint",
        help="the weights",
        markdown=3,
        page=3,
    ),
    _fact("model", lambda e: e.row.run.model),
    _fact(
        "setting",
        lambda e: e.row.setting,
        title="setting",
        help="how and where tokens exit",
        text=setting_text,
        markdown=4,
        page=4,
    ),
    _fact("kind", lambda e: e.row.kind),
    _fact(
        "documents",
        lambda e: e.row.run.documents(e.row.task),
        title="documents",
        help="how many",
        text=lambda e: str(e.row.run.documents(e.row.task) or NOTHING),
        order=lambda e: str(e.row.run.documents(e.row.task) or ""),
        number=True,
        markdown=19,
        page=20,
        under="task",
    ),
    _fact(
        "few_shot",
        lambda e: e.row.conditions.few_shot,
        title="few-shot",
        help="examples in the prompt",
        text=lambda e: str(e.row.conditions.few_shot or NOTHING),
        order=lambda e: str(e.row.conditions.few_shot),
        number=True,
        markdown=18,
        page=19,
        under="task",
    ),
    _fact("task_version", lambda e: e.row.conditions.version),
    _fact("higher_is_better", lambda e: e.row.higher_is_better),
    _metric(
        "quality",
        shown,
        title="value",
        help="the task's metric, with its standard error",
        markdown=5,
        page=6,
    ),
    _metric(
        "full_depth",
        shown,
        title="full depth",
        help="the same metric on the full-depth model's answers",
        markdown=6,
        page=7,
        under="quality",
    ),
    _metric(
        "layers_used",
        title="layers",
        help="decoder layers run per token of the text",
        text=layers_text,
        sweep="Layers",
        markdown=7,
        page=10,
    ),
    _metric(
        "flops_saved",
        title="net FLOPs saved",
        help="over the text's tokens: checks, projections and state included; "
        "of a fixed depth the run's own bill, which its point and Pareto mark do not use",
        sweep="FLOPs saved",
        markdown=8,
        page=8,
    ),
    _metric(
        "flops_saved_total",
        title="with prompt",
        help="net FLOPs saved with the prompt in both",
        page=15,
        under="flops_saved",
    ),
    _metric(
        "agreement",
        title="agreement",
        help="share of the text's tokens equal to full depth's; noise: by rounding alone",
        text=agreement_text,
        sweep="Agreement",
        markdown=9,
        page=9,
    ),
    _metric(
        "consistency",
        title="consistency",
        help="share of documents whose answer is full depth's",
        sweep="Consistency",
        markdown=10,
        page=14,
        under="agreement",
    ),
    _metric("agreement_noise"),
    _metric("layers_used_with_stop"),
    _metric(
        "flops_saved_with_stop",
        title="FLOPs saved with stop",
        help="net FLOPs saved over all generated tokens",
        sweep="FLOPs saved with stop",
        markdown=12,
        page=17,
        under="flops_saved",
    ),
    _metric(
        "agreement_with_stop",
        title="agreement with stop",
        help="over all generated tokens",
        sweep="Agreement with stop",
        markdown=13,
        page=18,
        under="agreement",
    ),
    _metric(
        "stop_share",
        title="stop's share",
        help="share of generated tokens that make the stop and no text",
        markdown=11,
        page=16,
        under="layers_used",
    ),
    _metric("acceptance_rate"),
    _metric("accepted_length", shown),
    _metric("passes_per_token", shown),
    _fact(
        "tokens_per_second",
        lambda e: tokens_per_second(e.row.run),
        title="tokens/s",
        help="answer tokens per second of the whole run, prompts aside; compare runs of one "
        "machine and load; none for points of a sweep that shared passes",
        text=lambda e: NOTHING if (one := tokens_per_second(e.row.run)) is None else f"{one:.0f}",
        number=True,
        page=11,
    ),
    _fact(
        "speedup",
        lambda e: speedup_of(e.row),
        title="speed",
        help="mode=lossless: decoding speed over full depth's, on some documents of the run",
        text=lambda e: "" if (one := speedup_of(e.row)) is None else f"{one:.2f}x",
        number=True,
        page=19,
        under="tokens_per_second",
    ),
    _fact("layers", lambda e: e.row.run.layers),
    _fact(
        "certificate",
        lambda e: e.row.certificate,
        title="certificate",
        help="what is certified of the threshold",
        markdown=14,
        page=21,
        under="setting",
    ),
    _fact(
        "pareto_quality",
        lambda e: e.marks.quality,
        title="Pareto",
        help="no other setting saves as much and is as good",
        text=pareto_text,
        order=lambda e: str(sum(e.marks)),
        markdown=15,
        page=22,
        under="setting",
    ),
    _fact("pareto_agreement", lambda e: e.marks.agreement),
    _fact("date", lambda e: date_of(e.row.run.date)),
    _fact("results", lambda e: str(e.row.run.path)),
    *(column for account in ACCOUNTS for column in _baseline(account)),
)
"""The package's columns."""

GROUP = "dynamax_lm.report_column"
"""Entry points that are columns; those named by ``--columns`` are shown."""


def with_outside(named: Sequence[str]) -> tuple[Column, ...]:
    """The package's columns, then those of Python files or installed packages.

    Args:
        named: each ``FILE.py:NAME`` or an entry point's name, of a :class:`Column`.

    Raises:
        SettingError: it cannot be loaded, is not a column, or its key is taken.
    """
    columns = list(COLUMNS)
    for text in named:
        reference = read_reference(text, GROUP)
        if reference is None:
            raise SettingError(f"--columns {text}: give FILE.py:NAME, NAME being a Column in it")
        source, column = load("--columns", reference, GROUP, kind=Column)
        taken = {one.key for one in columns} | {
            f"{one.key}_stderr" for one in columns if one.stderr
        }
        if not re.fullmatch(r"[a-z][a-z0-9_]*", column.key) or column.key in taken:
            why = (
                "a column of that key is there"
                if column.key in taken
                else "small letters, digits and underscores only"
            )
            raise SettingError(f"--columns {text}: key {column.key!r}: {why}; choose another")
        columns.append(replace(column, source=source))
    return tuple(columns)
