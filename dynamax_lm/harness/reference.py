"""The task's own metrics on the full-depth model's answers.

This module computes ``full_depth_<metric>``: the reference responses go through each of the task's
filters and its own scoring, on copies of its documents. Where they are the run's own responses, the
run's own metrics are the reference's, and scoring, which can take longer than the answers, is not
repeated.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from dynamax_lm.common.errors import error_line
from dynamax_lm.core.summary import Request
from dynamax_lm.harness.task_parts import filters_of, metric_names

PREFIX = "full_depth_"

Metrics = dict[str, Any]
_Item = TypeVar("_Item")
_UNSEEN = 3.0
"""Seconds before a bar is shown."""


class ReferenceScores(NamedTuple):
    """The task's metrics on the reference, or why there are none.

    Attributes:
        by_filter: for each filter, in the task's order, and each document id, the task's own
            metrics as ``full_depth_<metric>``.
        same: for each filter, documents that are missing there: their responses are the run's own,
            and so are their metrics.
        skipped: the reason, where there are none.
    """

    by_filter: list[dict[int, Metrics]]
    same: list[frozenset[int]]
    skipped: str | None = None


def score_reference(
    task: Any, documents: Mapping[int, Sequence[tuple[Any, Request]]], *, all_of_them: bool = False
) -> ReferenceScores:
    """Scores the reference answers of all documents with the task's own code.

    Args:
        task: the lm-eval task, its filters applied to the run's own answers already.
        documents: for each document id, its instances in the order that scoring expects, each with
            the run's responses.
        all_of_them: whether to score documents whose responses are the run's own, too.
    """
    reason = _reason_to_skip(task, documents)
    if reason:
        return ReferenceScores([], [], reason)
    with _random_state_kept():
        try:
            found = [_scored(task, documents, one, all_of_them) for one in filters_of(task)]
        except _Failed as failed:
            return ReferenceScores([], [], str(failed))
    return ReferenceScores([scores for scores, _ in found], [same for _, same in found])


class _Failed(Exception):  # noqa: N818 - a reason, which is reported
    """The task's code failed on the reference."""


def _scored(
    task: Any,
    documents: Mapping[int, Sequence[tuple[Any, Request]]],
    one: Any,
    all_of_them: bool,
) -> tuple[dict[int, Metrics], frozenset[int]]:
    """Each document's metrics under one filter, and the documents that need none of their own.

    Raises:
        _Failed: with the reason.
    """
    scores: dict[int, Metrics] = {}
    same: set[int] = set()
    try:
        instances = {doc_id: _reference_instances(pairs) for doc_id, pairs in documents.items()}
        one.apply([instance for group in instances.values() for instance in group])
    except Exception as error:  # a task's code may raise anything
        raise _Failed(f"the filter {one.name!r} fails on it: {error_line(error)}") from error
    name = f"Metrics of {getattr(task, 'task_name', 'the task')} at full depth"
    for doc_id, group in scoring_bar(instances.items(), name, len(instances)):
        responses = [instance.filtered_resps[one.name] for instance in group]
        ours = [instance.filtered_resps.get(one.name) for instance, _ in documents[doc_id]]
        if not all_of_them and _equal(responses, ours):
            same.add(doc_id)
            continue
        try:
            doc = copy.deepcopy(documents[doc_id][0][0].doc)
            own = task.process_results(doc, responses)
            scores[doc_id] = {PREFIX + name: value for name, value in own.items()}
        except Exception as error:  # a task's code may raise anything
            raise _Failed(f"scoring fails on document {doc_id}: {error_line(error)}") from error
    return scores, frozenset(same)


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two responses are the same text, numbers, or lists of these."""
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    plain = (str, int, float)
    return isinstance(ours, plain) and isinstance(theirs, plain) and ours == theirs


def scoring_bar(documents: Iterable[_Item], doing: str, total: int | None) -> Iterator[_Item]:
    """A task's documents while they are scored, with a bar where that takes long.

    Metrics that compare texts, such as ROUGE, can take longer than the answers did.

    Args:
        documents: to be scored.
        doing: what the bar says.
        total: how many there are, if known.
    """
    yield from tqdm(documents, desc=doing, total=total, unit="document", delay=_UNSEEN)


def _reason_to_skip(
    task: Any, documents: Mapping[int, Sequence[tuple[Any, Request]]]
) -> str | None:
    metrics = metric_names(task)
    if "bypass" in metrics:
        return "metrics are bypassed (predict_only)"
    if getattr(task, "UNSAFE_CODE", False) or "code_eval" in metrics:
        return "scoring executes code"
    answers = (a for pairs in documents.values() for _, request in pairs for a in request.answers)
    if any(answer.record.reference is None for answer in answers):
        return "the run has no full-depth reference"
    return None


def _reference_instances(pairs: Sequence[tuple[Any, Request]]) -> list[Any]:
    """Copies of one document's instances with the reference responses."""
    doc = copy.deepcopy(pairs[0][0].doc)
    copies = []
    for instance, request in pairs:
        twin = copy.copy(instance)
        twin.doc = doc
        twin.resps = [answer.record.reference for answer in request.answers]
        twin.filtered_resps = {}
        copies.append(twin)
    return copies


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restores the random state: scoring may draw numbers, and must not change later scores."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
