"""Groups of dynamic and static runs over made-up files, and their baselines."""

from __future__ import annotations

from pathlib import Path

from synthetic import GENERATION, Plan

from dynamax_lm.report.depth_bills import Account
from dynamax_lm.report.load import load
from dynamax_lm.report.rows import Row, comparison_groups, rows_of
from dynamax_lm.report.static_baseline import StaticBaseline, static_baselines

ONE = {"gen": GENERATION}


def group_of(folder: Path) -> list[Row]:
    (group,) = comparison_groups(rows_of(load([folder]).runs))
    return group


def baseline_of(row: Row, group: list[Row], account: Account = "answer") -> StaticBaseline | None:
    return next((b for b in static_baselines(row, group) if b.account == account), None)


def static_plan(layer: int, **more: object) -> Plan:
    """A run in which every token leaves at ``layer``: the only exit, and no full depth."""
    settings = {"exit_layers": [layer], "threshold": 0, **more}
    return Plan(settings=settings, tasks=ONE)
