"""Which pictures a report has: what is drawn of what, under which heading and name.

Owns the choice of metric and runs. It does not know how a picture looks or where it is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dynamax_lm.report import pictures
from dynamax_lm.report.labels import measure_of
from dynamax_lm.report.load import Library
from dynamax_lm.report.pictures import Picture
from dynamax_lm.report.reliability import reliability_curve
from dynamax_lm.report.rows import Row, arenas, setting_of
from dynamax_lm.report.rules import number_of

Arena = Sequence[Row]


class Figures(NamedTuple):
    """The pictures of one task under one set of conditions.

    Attributes:
        heading: checkpoint and task, and the conditions where there are others beside them.
        pictures: at least one.
    """

    heading: str
    pictures: list[Picture]


def figures_of(library: Library, rows: Sequence[Row]) -> Iterator[Figures]:
    """The pictures of every task in which exits took part."""
    chosen = _one_metric_each(rows)
    twice = Counter((arena[0].checkpoint, arena[0].task) for arena in chosen)
    numbers: Counter[tuple[str, str]] = Counter()
    for arena in chosen:
        of = (arena[0].checkpoint, arena[0].task)
        numbers[of] += 1
        name = "_".join(map(safe, of)) + (f"_{numbers[of]}" if numbers[of] > 1 else "")
        heading = ", ".join(of) + (f" ({_asked(arena[0])})" if twice[of] > 1 else "")
        if drawn := _drawn(library, arena, name, heading):
            yield Figures(heading, drawn)


def safe(text: str) -> str:
    """``text`` as a part of a file's name."""
    return re.sub(r"[^\w.+=-]", "_", text)


def _one_metric_each(rows: Sequence[Row]) -> list[Arena]:
    """Of each task the rows of its first metric, in the task's own order, that tells rows apart."""
    groups: dict[object, list[Arena]] = {}
    for arena in arenas(rows):
        if any(row.flops_saved is not None for row in arena):
            checkpoint, task, _, conditions = arena[0].arena
            groups.setdefault((checkpoint, task, conditions), []).append(arena)
    chosen = []
    for group in groups.values():
        ordered = sorted(group, key=_place)
        chosen.append(next((arena for arena in ordered if _varies(arena)), ordered[0]))
    return chosen


def _place(arena: Arena) -> int:
    """Where the task lists the metric; behind all others where it does not."""
    row = arena[0]
    listed = (row.run.of_task("configs", row.task) or {}).get("metric_list") or ()
    names = [one.get("metric") for one in listed if isinstance(one, Mapping)]
    return names.index(row.key.metric) if row.key.metric in names else len(names)


def _varies(arena: Arena) -> bool:
    """Whether the metric's values differ: one that is always 0 shows nothing."""
    return len({row.quality.mean for row in arena}) > 1


def _drawn(library: Library, arena: Arena, name: str, heading: str) -> list[Picture]:
    curves = []
    for row in _widest(arena):
        if lines := library.trace(row.run, row.task):
            curves.append(reliability_curve(_judge(row), lines, row.run.layers or 0))
    drawn = (
        pictures.trade_off(f"{name}_saved", arena),
        pictures.reliability(f"{name}_reliability", heading, curves),
        pictures.depths(f"{name}_depths", arena),
        pictures.ledger(f"{name}_ledger", arena),
    )
    return [picture for picture in drawn if picture is not None]


def _judge(row: Row) -> str:
    """Whose confidence a curve shows: a static setting's name does not say."""
    if row.kind == "static":
        return f"{row.run.settings.get('confidence')}, {setting_of(row.run)}"
    return setting_of(row.run)


def _widest(arena: Arena) -> list[Row]:
    """Of each measure the run of the lowest threshold, which shows most of its range."""
    chosen: dict[str, Row] = {}
    for row in (row for row in arena if row.kind in {"dynamic", "static"}):
        name = measure_of(row)
        if name not in chosen or _threshold(row) < _threshold(chosen[name]):
            chosen[name] = row
    return list(chosen.values())


def _threshold(row: Row) -> float:
    return number_of(row.run.settings)


def _asked(row: Row) -> str:
    """The conditions that most often differ, in words."""
    conditions = row.conditions
    return (
        f"{conditions.few_shot or '?'}-shot, {conditions.documents or '?'} documents, "
        f"version {conditions.version or '?'}"
    )
