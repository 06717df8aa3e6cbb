"""The parts of the benchmark: what each measures, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dynamax_lm.bench import continuous, decode, documents, exits, expected, prompts, runs, scan
from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.subject import Subject


class Part(NamedTuple):
    """One part.

    Attributes:
        measure: from the model and the rows of ``decode`` measurements.
        seconds: that it is expected to take.
    """

    measure: Callable[[Subject, Sequence[int]], Iterator[Row]]
    seconds: Callable[[expected.Work], float]


def _exits(subject: Subject, batches: Sequence[int]) -> Iterator[Row]:
    yield from exits.half_depth(subject)
    yield from exits.caught_up(subject)


def _scan(subject: Subject, batches: Sequence[int]) -> Iterator[Row]:
    return iter(()) if subject.attention else scan.scan(subject)


def _alone(measure: Callable[[Subject], Iterator[Row]]) -> Callable[..., Iterator[Row]]:
    """A part that has no batches of several sizes."""
    return lambda subject, batches: measure(subject)


TABLE = {
    "decode": Part(decode.decode, expected.decode_seconds),
    "exits": Part(_exits, expected.exits_seconds),
    "continuous": Part(_alone(continuous.spread), expected.continuous_seconds),
    "scoring": Part(_alone(exits.multiple_choice), expected.scoring_seconds),
    "prompts": Part(_alone(prompts.prompts), expected.prompts_seconds),
    "scan": Part(_scan, expected.scan_seconds),
    "context": Part(_alone(decode.context), expected.context_seconds),
    "documents": Part(_alone(documents.documents), expected.documents_seconds),
    "runs": Part(_alone(runs.runs), expected.runs_seconds),
    "memory": Part(_alone(runs.memory), expected.memory_seconds),
}
"""By name; ``bench.__main__.PARTS`` has the names, for a help without torch."""


def expected_seconds(
    subject: Subject, parts: Sequence[str], batches: Sequence[int]
) -> dict[str, float]:
    """Seconds of each part.

    Args:
        subject: the model.
        parts: names of the command's parts.
        batches: rows of the ``decode`` measurements.
    """
    pace = expected.Pace.of(subject, batches)
    whole = {"documents", "runs"} & set(parts)
    one_pass = expected.embedded_pass(subject) if whole else 0.0
    work = expected.Work(subject, pace, batches, one_pass)
    return {part: TABLE[part].seconds(work) for part in parts}
