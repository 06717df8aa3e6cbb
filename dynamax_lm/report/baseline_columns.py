"""The columns of the static baseline: a fixed depth of equal cost, and whether the row beats it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamax_lm.report.cells import baseline_of, baseline_text
from dynamax_lm.report.column import Column, Plain, fact
from dynamax_lm.report.depth_bills import ACCOUNTS, Account
from dynamax_lm.report.leaderboard import Entry
from dynamax_lm.report.static_baseline import StaticBaseline

BASELINES: dict[Account, str] = {
    "answer": "fixed depth of equal answer FLOPs",
    "total": "fixed depth of equal total FLOPs",
}
"""Names of the static baseline's columns."""
_NO_VERDICT = frozenset({"unknown", "not tested", "not distinguishable"})
_PREFIXES: dict[Account, str] = {"answer": "static", "total": "static_total"}
_HELP: dict[Account, str] = {
    "answer": "the fixed depth whose answers cost the same",
    "total": "the same with prompts: k layers prefill k layers",
}


def baseline_columns(account: Account) -> list[Column]:
    """The columns of a static baseline; the verdict's cell shows all of it.

    Args:
        account: what the fixed depth costs as much as.
    """
    prefix = _PREFIXES[account]

    def part(
        name: str, read: Callable[[StaticBaseline], Plain], empty: Plain, **more: Any
    ) -> Column:
        def value(entry: Entry) -> Plain:
            baseline = baseline_of(entry, account)
            return read(baseline) if baseline else empty

        return fact(f"{prefix}_{name}", value, **more)

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
