"""Definition of each metric's loss, its range, and the test for it.

The test is chosen by the range of a loss, never by observed losses, which would void the guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dynamax_lm.common.certificate.records import CertificateError

AGREEMENT, CONSISTENCY = "agreement", "consistency"
LIKENESS = (AGREEMENT, CONSISTENCY)
"""The metrics that every task has."""

_LIKENESS_LOSSES = {
    AGREEMENT: (
        "1 - agreement: the share of the tokens of a document's returned text, or of its scored "
        "continuations, that are not the full-depth model's most likely token after the same "
        "prefix; without text, 0 if every token of the stop is, else 1"
    ),
    CONSISTENCY: (
        "1 - consistency: 1 for an answer that is not the full-depth model's own, else 0; the mean "
        "over a document's repeats"
    ),
}


class LossKind(NamedTuple):
    """The definition of a loss.

    Attributes:
        definition: in words.
        least: the smallest value it can have; the largest is 1.
        method: the test's name: ``binomial``, ``betting`` or ``betting_on_differences``.
    """

    definition: str
    least: float
    method: str


def loss_kind(
    metric: str, metrics: Mapping[str, bool | None], *, repeats: int, grouped: bool
) -> LossKind:
    """The loss of a metric, and the test for its range.

    Args:
        metric: ``agreement``, ``consistency`` or one of the task's.
        metrics: the task's own, each with whether higher is better.
        repeats: answers for each document.
        grouped: whether some unit has several documents, so that its loss is a mean of theirs.

    Raises:
        CertificateError: the task has no such metric.
    """
    if metric in LIKENESS:
        exact = metric == CONSISTENCY and repeats == 1 and not grouped
        return LossKind(_LIKENESS_LOSSES[metric], 0.0, "binomial" if exact else "betting")
    if metric not in metrics:
        raise CertificateError(f"certificate: metric={metric[:80]}: the task has no such metric")
    pair = (f"full_depth_{metric}", metric)
    better, worse = pair if metrics[metric] is not False else pair[::-1]
    return LossKind(f"{better} - {worse} of a document", -1.0, "betting_on_differences")
