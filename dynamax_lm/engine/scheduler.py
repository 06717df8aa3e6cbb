"""Which rows run next, and through which segment: continuous batching across exits.

A segment is the stretch of layers between two exits. Every row in flight stands in front of one.
Running a segment reads its weights once for all rows of the step, so that rows are collected in
front of a segment until there are enough of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

LONGEST_WAIT = 32
"""Steps after which a row runs next, however few rows stand in front of the same segment."""


class Step(NamedTuple):
    """Rows that run one segment together.

    Attributes:
        segment: from 0.
        rows: at least one, ascending.
    """

    segment: int
    rows: list[int]


class Scheduler:
    """Rows in front of segments.

    Args:
        segments: number of segments, at least 1.
        batch_size: largest number of rows in a step, at least 1.
        longest_wait: see ``LONGEST_WAIT``.
    """

    def __init__(self, segments: int, batch_size: int, longest_wait: int = LONGEST_WAIT) -> None:
        self._queues: list[deque[tuple[int, int]]] = [deque() for _ in range(segments)]
        self._batch_size, self._longest_wait = batch_size, longest_wait
        self._steps = 0

    def __bool__(self) -> bool:
        """Whether any row stands in front of a segment."""
        return any(self._queues)

    def ready(self, row: int, segment: int) -> None:
        """``row`` stands in front of ``segment``."""
        self._queues[segment].append((row, self._steps))

    def put_back(self, segment: int, rows: Sequence[int]) -> None:
        """``rows``, of the last step, did not run: they are next."""
        since = self._steps - self._longest_wait
        self._queues[segment].extendleft((row, since) for row in reversed(rows))

    def next(self) -> Step:
        """The segment to run, and its rows, which leave the queue; some row is ready."""
        segment = self._choose()
        queue = self._queues[segment]
        count = min(len(queue), self._batch_size)
        self._steps += 1
        return Step(segment, sorted(queue.popleft()[0] for _ in range(count)))

    def _choose(self) -> int:
        """That of a row that has stood too long; else the deepest full step; else most rows.

        Without a full step, rows in the middle of a token come before those that begin one, so that
        a batch without further rows in flight stays together.
        """
        filled = [number for number, queue in enumerate(self._queues) if queue]
        oldest = min(filled, key=lambda number: self._queues[number][0][1])
        if self._steps - self._queues[oldest][0][1] >= self._longest_wait:
            return oldest
        return max(filled, key=self._rank)

    def _rank(self, segment: int) -> tuple[bool, bool, int, int]:
        rows = min(len(self._queues[segment]), self._batch_size)
        return rows == self._batch_size, segment > 0, rows, segment
