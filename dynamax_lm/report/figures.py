"""Selection of a report's pictures: metric, runs, heading and name of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from dynamax_lm.report import pictures
from dynamax_lm.report.depth_bills import saving_of
from dynamax_lm.report.labels import measure_of
from dynamax_lm.report.load import Library
from dynamax_lm.report.metric_choice import one_metric_each
from dynamax_lm.report.pictures import Picture
from dynamax_lm.report.reliability import reliability_curve
from dynamax_lm.report.rows import Row, setting_of
from dynamax_lm.report.rules import number_of
from dynamax_lm.report.runs import Value
from dynamax_lm.report.speed_picture import speeds

Group = Sequence[Row]


class Figures(NamedTuple):
    """The pictures of one task under one set of conditions.

    Attributes:
        heading: checkpoint and task, and the conditions where there are several.
        pictures: at least one.
        points: rows with the savings that their points stand for, in the picture of savings.
    """

    heading: str
    pictures: list[Picture]
    points: Sequence[Row] = ()

    @property
    def data(self) -> str:
        """The name of the points' CSV file, beside the picture of savings."""
        return f"{self.pictures[0].name}.csv"


def figures_of(library: Library, rows: Sequence[Row]) -> Iterator[Figures]:
    """The pictures of every task with exits."""
    chosen = one_metric_each(rows)
    twice = Counter((group[0].checkpoint, group[0].task) for group in chosen)
    numbers: Counter[tuple[str, str]] = Counter()
    for group in chosen:
        of = (group[0].checkpoint, group[0].task)
        numbers[of] += 1
        name = "_".join(map(safe, of)) + (f"_{numbers[of]}" if numbers[of] > 1 else "")
        heading = ", ".join(of) + (f" ({_conditions(group[0])})" if twice[of] > 1 else "")
        if drawn := _drawn(library, group, name, heading):
            yield Figures(heading, drawn, _points(group) if "_saved" in drawn[0].name else ())


def safe(text: str) -> str:
    """``text`` as a part of a file's name."""
    return re.sub(r"[^\w.+=-]", "_", text)


def _drawn(library: Library, group: Group, name: str, heading: str) -> list[Picture]:
    curves = []
    for row in _widest(group):
        if lines := library.trace(row.run, row.task):
            curves.append(reliability_curve(_judge(row), lines, row.run.layers or 0))
    drawn = (
        pictures.trade_off(f"{name}_saved", _points(group)),
        pictures.reliability(f"{name}_reliability", heading, curves),
        pictures.depths(f"{name}_depths", group),
        pictures.ledger(f"{name}_ledger", group),
        speeds(f"{name}_speed", heading, group),
    )
    return [picture for picture in drawn if picture is not None]


def _points(group: Group) -> list[Row]:
    """The rows with the saving that their points stand for: see `saving_of`."""
    return [
        row if (saved := saving_of(row)) is None else replace(row, flops_saved=Value(saved, None))
        for row in group
    ]


def _judge(row: Row) -> str:
    """The name of a curve's measure, which a static setting's name lacks."""
    if row.kind == "static":
        return f"{row.run.settings.get('confidence')}, {setting_of(row.run)}"
    return setting_of(row.run)


def _widest(group: Group) -> list[Row]:
    """Of each measure the run of the lowest threshold, whose confidences have the widest range."""
    chosen: dict[str, Row] = {}
    exiting = (row for row in group if row.run.settings.get("exit_layers"))
    for row in (row for row in exiting if row.kind in {"dynamic", "static"}):
        name = measure_of(row)
        if name not in chosen or _threshold(row) < _threshold(chosen[name]):
            chosen[name] = row
    return list(chosen.values())


def _threshold(row: Row) -> float:
    return number_of(row.run.settings)


def _conditions(row: Row) -> str:
    """The conditions that most often differ, in words."""
    conditions = row.conditions
    return (
        f"{conditions.few_shot or '?'}-shot, {conditions.documents or '?'} documents, "
        f"version {conditions.version or '?'}"
    )
