"""All comparisons of one report: every row with its marks, its static rival and its differences.

Owns which row is held against which. It does not show anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dynamax_lm.report.load import Library
from dynamax_lm.report.paired import (
    Comparison,
    against_full_depth,
    against_run,
    against_static,
)
from dynamax_lm.report.pareto import Marks, pareto_marks
from dynamax_lm.report.rows import Row, arenas, rows_of
from dynamax_lm.report.static import FULL_DEPTH, Gain, StaticRival, judged_by_pairs, static_rival

_FULL_DEPTH = frozenset({"plain", "full"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A row and what its comparisons came to.

    Attributes:
        row: what was measured.
        marks: whether it is Pareto-optimal.
        rival: the static depth of the same FLOPs, for dynamic rows.
    """

    row: Row
    marks: Marks
    rival: StaticRival | None


class Apart(NamedTuple):
    """Settings of one checkpoint and task that were not asked the same, and so are not compared.

    Attributes:
        task: the task.
        checkpoint: the weights.
        settings: how many settings, in words of both sides.
        reason: what differs.
    """

    task: str
    checkpoint: str
    settings: str
    reason: str


@dataclass(frozen=True)
class Leaderboard:
    """What a report shows.

    Attributes:
        entries: one a row.
        comparisons: paired by document.
        apart: what was refused without pairing anything.
    """

    entries: list[Entry]
    comparisons: list[Comparison] = field(default_factory=list)
    apart: list[Apart] = field(default_factory=list)


def build(library: Library, baseline: Library | None = None) -> Leaderboard:
    """Compares everything that may be compared.

    Args:
        library: what was found.
        baseline: runs that every row is held against, too. Each row is held against the full-depth
            answers of its own run; where a run has none, against a plain or full-depth run of the
            same checkpoint, if there is one.
    """
    rows = rows_of(library.runs)
    chosen = rows_of(baseline.runs) if baseline else rows
    entries, comparisons = [], []
    for arena in arenas(rows):
        for row, marks in zip(arena, pareto_marks(arena), strict=True):
            rival = static_rival(row, arena)
            if row.run.is_group(row.task):  # it has no documents but its tasks'
                entries.append(Entry(row, marks, rival))
                continue
            if row.full_depth is not None and row.kind not in _FULL_DEPTH:
                comparisons.append(against_full_depth(library, row))
            if rival is not None and rival.mixture:
                pairs = against_static(library, row, rival)
                rival = judged_by_pairs(rival, _gains(pairs), costlier=rival.source == FULL_DEPTH)
                if rival.source != FULL_DEPTH:
                    comparisons += pairs
            for other in _opponents(row, chosen, everyone=baseline is not None):
                comparisons.append(against_run(library, row, other))
            entries.append(Entry(row, marks, rival))
    return Leaderboard(entries, _once(comparisons), _apart(arenas(rows)))


def _apart(groups: Sequence[Sequence[Row]]) -> list[Apart]:
    """Each arena against the largest one of its checkpoint and task, metrics taken together."""
    found: dict[Apart, None] = {}
    largest: dict[object, Sequence[Row]] = {}
    for rows in sorted(groups, key=len, reverse=True):
        one = rows[0]
        other = largest.setdefault((one.checkpoint, one.task, one.key), rows)
        reason = other[0].conditions.differ(one.conditions)
        if reason is not None:
            sizes = f"{_count(other)} against {_count(rows)}"
            found[Apart(one.task, one.checkpoint, sizes, reason)] = None
    return list(found)


def _count(rows: Sequence[Row]) -> str:
    return f"{len(rows)} setting" + ("s" if len(rows) > 1 else "")


def _gains(comparisons: Sequence[Comparison]) -> list[Gain]:
    """Each interval, turned so that more is better."""
    gains = []
    for one in comparisons:
        if one.difference is not None:
            low, high = one.difference.low, one.difference.high
            lower = one.metric == one.row.key.metric and not one.row.higher_is_better
            gains.append(Gain(one.metric, *((-high, -low) if lower else (low, high))))
    return gains


def _once(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Without repeats: a task's several metrics share one agreement."""
    seen = {(c.row.run.path, c.row.task, c.row.key.filter, *c[1:]): c for c in comparisons}
    return list(seen.values())


def _opponents(row: Row, rows: Sequence[Row], *, everyone: bool) -> list[Row]:
    """Rows of the same task and metric that this one is held against."""
    same = [o for o in rows if (o.task, o.key) == (row.task, row.key) and o.run is not row.run]
    if everyone:
        return [other for other in same if other.run.path != row.run.path]
    if row.full_depth is not None or row.kind in _FULL_DEPTH:
        return []
    return [o for o in same if o.kind in _FULL_DEPTH and o.checkpoint == row.checkpoint][:1]
