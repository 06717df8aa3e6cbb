"""A run's values by document, or the reason why they cannot be paired with another's.

Values are used only if their mean is the published one, and two runs only under the same conditions
and with the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.passages import Units
from dynamax_lm.core.summary import agreement_without_text
from dynamax_lm.report.conditions import conditions_of
from dynamax_lm.report.depth_bills import Account
from dynamax_lm.report.load import Library
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX, Row
from dynamax_lm.report.runs import MetricKey, Run, Sample, Value

AGREEMENT = "agreement"
SAVED: dict[Account, str] = {"answer": "flops_saved", "total": "flops_saved_total"}
"""By account, the metric of a document's saving."""


class MismatchError(SettingError):
    """Two runs that cannot be paired, with the reason."""


def paired_samples(
    library: Library, first: Run, second: Run, task: str, name: str
) -> tuple[Mapping[int, Sample], Mapping[int, Sample]]:
    """Both runs' samples by document, the same ones in both."""
    if reason := conditions_of(first, task).differ(conditions_of(second, task)):
        raise MismatchError(reason)
    ours = by_document(samples_of(library, first, task, name))
    theirs = by_document(samples_of(library, second, task, name))
    if set(ours) != set(theirs):
        missing = len(set(ours) ^ set(theirs))
        raise MismatchError(f"other samples: {missing} documents are in only one of the runs")
    for number, sample in ours.items():
        if sample.hashes != theirs[number].hashes:
            raise MismatchError(f"other samples or prompts: document {number} is not the same")
    return ours, theirs


def part_values(library: Library, row: Row, part: Row | None, metric: str) -> dict[int, float]:
    """One measured depth's values for the documents of ``row``; full depth's for ``None``."""
    if part is not None:
        paired_samples(library, row.run, part.run, row.task, row.key.filter)
        return values_of(library, part, metric)
    if metric == AGREEMENT:
        return dict.fromkeys(values_of(library, row, metric), 1.0)
    return values_of(library, row, FULL_DEPTH_PREFIX + metric)


def values_of(library: Library, row: Row, metric: str) -> dict[int, float]:
    """The row's values of ``metric`` by document.

    Raises:
        MismatchError: a document without a value, or a published mean that is not theirs.
    """
    values, averaged = {}, []
    for sample in samples_of(library, row.run, row.task, row.key.filter):
        number = sample.number(metric)
        if number is not None:
            averaged.append(number)
        elif metric != SAVED["total"] or row.run.settings.get("prompt_exit") is None:
            number = _without_text(sample, metric)  # the published mean excludes such documents
        if number is None:
            raise MismatchError(f"{metric} is not one number a document in both")
        values[sample.doc_id] = number
    if not averaged:
        raise MismatchError(f"no document has {metric} under the filter {row.key.filter}")
    published = row.run.values(row.task).get(MetricKey(metric, row.key.filter))
    check_mean(averaged, metric, published)
    return values


def _without_text(sample: Sample, metric: str) -> float | None:
    """Values of a document without text: agreement and cost of its stop sequence.

    By the account with prompts such a document costs as much as at full depth: its prompt.
    """
    if metric == SAVED["total"]:
        return None if sample.number(f"{SAVED['answer']}_with_stop") is None else 0.0
    if metric not in {AGREEMENT, SAVED["answer"]}:
        return None
    stop = sample.number(f"{metric}_with_stop")
    return agreement_without_text(stop) if stop is not None and metric == AGREEMENT else stop


def samples_of(library: Library, run: Run, task: str, name: str) -> list[Sample]:
    """The run's samples of a task under the filter ``name``.

    Raises:
        MismatchError: none can be read.
    """
    samples = library.samples(run, task)
    if samples is None:
        raise MismatchError(f"{run.path.name} has no readable samples; run with --log_samples")
    return [sample for sample in samples if sample.filter == name]


def units_of(samples: Sequence[Sample]) -> Units | None:
    """Units of the documents of ``samples``; ``None`` if each is its own.

    Documents that share a passage are one unit; what shares a group is told by the records logged.
    """
    return Units.by_keys([one.shared for one in samples])


def row_units(library: Library, row: Row, documents: Sequence[int]) -> Units | None:
    """Units of the ``documents``, in their order."""
    samples = by_document(samples_of(library, row.run, row.task, row.key.filter))
    return units_of([samples[number] for number in documents])


def by_document(samples: Sequence[Sample]) -> Mapping[int, Sample]:
    """Samples by the number of their document."""
    return {sample.doc_id: sample for sample in samples}


def check_mean(numbers: Sequence[float], metric: str, published: Value | None) -> None:
    """Check that the values of documents are those of the published mean.

    Raises:
        MismatchError: they are not, or none is published.
    """
    mean = sum(numbers) / len(numbers)
    if published is None or not math.isclose(mean, published.mean, rel_tol=1e-6, abs_tol=1e-9):
        raise MismatchError(f"{metric} is not the mean of its documents, and has no differences")
