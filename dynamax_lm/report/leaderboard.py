"""All comparisons of one report: each row with its marks, static baselines and differences.

This module determines which rows are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dynamax_lm.common.intervals import LEVEL
from dynamax_lm.report.depth_bills import ACCOUNTS
from dynamax_lm.report.document_values import AGREEMENT
from dynamax_lm.report.holm import holm
from dynamax_lm.report.load import Library
from dynamax_lm.report.paired import (
    Comparison,
    Shown,
    against_full_depth,
    against_run,
    against_static,
    mean_agreement,
    mean_cost,
)
from dynamax_lm.report.pareto import Marks, pareto_marks
from dynamax_lm.report.rows import Row, comparison_groups, rows_of
from dynamax_lm.report.static_baseline import (
    Gain,
    StaticBaseline,
    judged,
    on_paired_documents,
    static_baselines,
)

_FULL_DEPTH = frozenset({"plain", "full"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A row and the results of its comparisons.

    >>> def answers_per_layer(entry: Entry) -> float | None:  # the value of a `Column`
    ...     used = entry.row.layers_used
    ...     return None if used is None else 1 / used.mean

    Attributes:
        row: what was measured.
        marks: whether it is Pareto-optimal.
        baselines: the static depths of the same FLOPs, one for each account, for dynamic rows.
    """

    row: Row
    marks: Marks
    baselines: tuple[StaticBaseline, ...]


class Apart(NamedTuple):
    """Settings of one checkpoint and task under different conditions, which are not compared.

    Attributes:
        task: the task.
        checkpoint: the weights.
        settings: their numbers on both sides, in words.
        reason: what differs.
    """

    task: str
    checkpoint: str
    settings: str
    reason: str


@dataclass(frozen=True)
class Leaderboard:
    """The contents of a report.

    Attributes:
        entries: one for each row.
        comparisons: paired by document.
        apart: comparisons refused before pairing.
    """

    entries: list[Entry]
    comparisons: list[Comparison] = field(default_factory=list)
    apart: list[Apart] = field(default_factory=list)

    @property
    def tested(self) -> int:
        """Number of comparisons in the report, each in both directions."""
        return sum(_tested(one) for one in self.comparisons)


def build(library: Library, baseline: Library | None = None) -> Leaderboard:
    """Makes all comparisons.

    Args:
        library: the runs.
        baseline: runs that every row is compared with. Each row is also compared with the
            full-depth answers of its own run; where a run has none, with a plain or full-depth run
            of the same checkpoint, if there is one.
    """
    rows = rows_of(library.runs)
    chosen = rows_of(baseline.runs) if baseline else rows
    entries: list[Entry] = []
    comparisons: list[Comparison] = []
    for group in comparison_groups(rows):
        for row, marks in zip(group, pareto_marks(group), strict=True):
            if row.run.is_group(row.task):  # it has no documents of its own
                entries.append(Entry(row, marks, static_baselines(row, group)))
                continue
            if row.full_depth is not None and row.kind not in _FULL_DEPTH:
                comparisons.append(against_full_depth(library, row))
            baselines = []
            for one, paired in _static(library, row, group) if row.kind == "dynamic" else ():
                baselines.append(one)
                comparisons += paired
            entries.append(Entry(row, marks, tuple(baselines)))
            for other in _opponents(row, chosen, everyone=baseline is not None):
                comparisons.append(against_run(library, row, other))
    comparisons = corrected(_once(comparisons))
    found = _gains(comparisons)
    entries = [
        replace(entry, baselines=tuple(judged(b, found(entry.row, b)) for b in entry.baselines))
        for entry in entries
    ]
    return Leaderboard(entries, comparisons, _apart(comparison_groups(rows)))


def _static(
    library: Library, row: Row, group: Sequence[Row]
) -> Iterator[tuple[StaticBaseline, list[Comparison]]]:
    """A dynamic row's baselines on the documents that are paired, and the row against each."""
    spent = {account: mean_cost(library, row, account) for account in ACCOUNTS}
    own = mean_agreement(library, row)
    for one in static_baselines(row, group, spent):
        paired = against_static(library, row, one) if one.mixture else []
        gaps = (c.difference.mean for c in paired if c.metric == AGREEMENT and c.difference)
        yield on_paired_documents(one, own, next(gaps, None)), paired


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Each with its significant direction, corrected for the number of comparisons.

    Holm's procedure, once for all claims of *higher* and once for all of *lower*, each at half of
    the error level: of pages without true differences, at most that share claims *higher* anywhere,
    and at most that share *lower*.
    """
    gaps = [c.difference for c in comparisons if c.difference and c.difference.tested]
    side = (1 - LEVEL) / 2
    words: list[Shown] = [
        "higher" if higher <= side else "lower" if lower <= side else ""
        for higher, lower in zip(
            holm([gap.p_higher for gap in gaps]), holm([gap.p_lower for gap in gaps]), strict=True
        )
    ]
    shown = iter(words)
    return [one._replace(shown=next(shown)) if _tested(one) else one for one in comparisons]


def _apart(groups: Sequence[Sequence[Row]]) -> list[Apart]:
    """Each comparison group against the largest one of its checkpoint and task."""
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


def _tested(comparison: Comparison) -> bool:
    return comparison.difference is not None and comparison.difference.tested


def _gains(
    comparisons: Sequence[Comparison],
) -> Callable[[Row, StaticBaseline], list[Gain]]:
    """A baseline's tested comparisons, signed so that higher is better."""
    by_key = {one.key: one for one in comparisons if _tested(one)}

    def of(row: Row, baseline: StaticBaseline) -> list[Gain]:
        gains = []
        for metric in (row.key.metric, AGREEMENT):
            asked = Comparison(row, metric, baseline.name, None, "")
            one = by_key.get(asked.key)
            if one is not None:
                turned = metric == row.key.metric and not row.higher_is_better
                better, worse = one.shown == "higher", one.shown == "lower"
                gains.append(Gain(metric, worse, better) if turned else Gain(metric, better, worse))
        return gains

    return of


def _once(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Without duplicates: the metrics of a task share one agreement."""
    return list({(one.key, one.difference, one.reason): one for one in comparisons}.values())


def _opponents(row: Row, rows: Sequence[Row], *, everyone: bool) -> list[Row]:
    """Rows of the same task and metric that this one is compared with."""
    same = [o for o in rows if (o.task, o.key) == (row.task, row.key) and o.run is not row.run]
    if everyone:
        return [other for other in same if other.run.path != row.run.path]
    if row.full_depth is not None or row.kind in _FULL_DEPTH:
        return []
    return [o for o in same if o.kind in _FULL_DEPTH and o.checkpoint == row.checkpoint][:1]
