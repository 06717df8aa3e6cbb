"""The leaderboard's columns, read by every table, file and page.

The position of a column in ``COLUMNS`` is that in CSV and JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.extensions import load, read_reference
from dynamax_lm.report.baseline_columns import baseline_columns
from dynamax_lm.report.cells import (
    NOTHING,
    agreement_text,
    date_of,
    layers_text,
    metric_name,
    pareto_text,
    setting_text,
    shown,
    speedup_of,
)
from dynamax_lm.report.column import Column, fact, metric
from dynamax_lm.report.depth_bills import ACCOUNTS
from dynamax_lm.report.speed import tokens_per_second

COLUMNS: tuple[Column, ...] = (
    fact("task", lambda e: e.row.task, title="task", help="sort by task", markdown=1, page=1),
    fact(
        "metric",
        lambda e: e.row.key.metric,
        title="metric",
        help="the arrow shows the better way",
        text=metric_name,
        markdown=2,
        page=2,
        under="task",
    ),
    fact("filter", lambda e: e.row.key.filter),
    fact(
        "checkpoint",
        lambda e: e.row.checkpoint,
        title="checkpoint",
        help="the weights",
        markdown=3,
        page=3,
    ),
    fact("model", lambda e: e.row.run.model),
    fact(
        "setting",
        lambda e: e.row.setting,
        title="setting",
        help="how and where tokens exit",
        text=setting_text,
        markdown=4,
        page=4,
    ),
    fact("kind", lambda e: e.row.kind),
    fact(
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
    fact(
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
    fact("task_version", lambda e: e.row.conditions.version),
    fact("higher_is_better", lambda e: e.row.higher_is_better),
    metric(
        "quality",
        shown,
        title="value",
        help="the task's metric, with its standard error",
        markdown=5,
        page=6,
    ),
    metric(
        "full_depth",
        shown,
        title="full depth",
        help="the same metric on the full-depth model's answers",
        markdown=6,
        page=7,
        under="quality",
    ),
    metric(
        "layers_used",
        title="layers",
        help="decoder layers run per token of the text",
        text=layers_text,
        sweep="Layers",
        markdown=7,
        page=10,
    ),
    metric(
        "flops_saved",
        title="net FLOPs saved",
        help="over the text's tokens: checks, projections and state included; "
        "of a fixed depth the run's own bill, which its point and Pareto mark do not use",
        sweep="FLOPs saved",
        markdown=8,
        page=8,
    ),
    metric(
        "flops_saved_total",
        title="with prompt",
        help="net FLOPs saved with the prompt in both",
        page=15,
        under="flops_saved",
    ),
    metric(
        "agreement",
        title="agreement",
        help="share of the text's tokens equal to full depth's; noise: by rounding alone",
        text=agreement_text,
        sweep="Agreement",
        markdown=9,
        page=9,
    ),
    metric(
        "consistency",
        title="consistency",
        help="share of documents whose answer is full depth's",
        sweep="Consistency",
        markdown=10,
        page=14,
        under="agreement",
    ),
    metric("agreement_noise"),
    metric("layers_used_with_stop"),
    metric(
        "flops_saved_with_stop",
        title="FLOPs saved with stop",
        help="net FLOPs saved over all generated tokens",
        sweep="FLOPs saved with stop",
        markdown=12,
        page=17,
        under="flops_saved",
    ),
    metric(
        "agreement_with_stop",
        title="agreement with stop",
        help="over all generated tokens",
        sweep="Agreement with stop",
        markdown=13,
        page=18,
        under="agreement",
    ),
    metric(
        "stop_share",
        title="stop's share",
        help="share of generated tokens that make the stop and no text",
        markdown=11,
        page=16,
        under="layers_used",
    ),
    metric("acceptance_rate"),
    metric("accepted_length", shown),
    metric("passes_per_token", shown),
    fact(
        "tokens_per_second",
        lambda e: tokens_per_second(e.row.run),
        title="tokens/s",
        help="answer tokens per second of the whole run, prompts aside; compare runs of one "
        "machine and load; none for points of a sweep that shared passes",
        text=lambda e: NOTHING if (one := tokens_per_second(e.row.run)) is None else f"{one:.0f}",
        number=True,
        page=11,
    ),
    fact(
        "speedup",
        lambda e: speedup_of(e.row),
        title="speed",
        help="mode=lossless: decoding speed over full depth's, on some documents of the run",
        text=lambda e: "" if (one := speedup_of(e.row)) is None else f"{one:.2f}x",
        number=True,
        page=19,
        under="tokens_per_second",
    ),
    fact("layers", lambda e: e.row.run.layers),
    fact(
        "certificate",
        lambda e: e.row.certificate,
        title="certificate",
        help="what is certified of the threshold",
        markdown=14,
        page=21,
        under="setting",
    ),
    fact(
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
    fact("pareto_agreement", lambda e: e.marks.agreement),
    fact("date", lambda e: date_of(e.row.run.date)),
    fact("results", lambda e: str(e.row.run.path)),
    *(column for account in ACCOUNTS for column in baseline_columns(account)),
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
