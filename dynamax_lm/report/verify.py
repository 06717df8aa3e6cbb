"""Whether the published numbers follow from the samples and traces beside them.

Owns what is recomputed from what, and names each number that does not match. What the files cannot
determine is listed as unchecked, never passed over: seconds, fingerprints, and full-depth answers,
of which only those are checked that must equal the run's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamax_lm.report.aggregates import aggregate, mean_stderr
from dynamax_lm.report.costs import costs_of
from dynamax_lm.report.load import Library
from dynamax_lm.report.recompute import (
    DocumentAgain,
    documents_again,
    ledger_of,
    totals_again,
)
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX, first_filter
from dynamax_lm.report.runs import Run, Sample, is_number
from dynamax_lm.summary import (
    GENERATION,
    HIGHER_IS_BETTER,
    RunTotals,
    TaskTotals,
    Texts,
    text_key,
)
from dynamax_lm.tracefile import TraceLine

_RELATIVE, _ABSOLUTE = 1e-9, 1e-12

_TAKES_THE_MODEL = (
    "consistency and full_depth metrics, where agreement does not imply them: that takes the model"
)
_REPLACED = (
    "tokens, depths and FLOPs: its trace is gone, {} ran later with the same trace_dir; give each "
    "run one of its own"
)
_OTHER_DEPTHS = (
    "has other depths than the results: one of the two was changed, or another run with the same "
    "trace_dir has replaced the trace"
)


@dataclass
class Verification:
    """What was found; it grows as runs are verified.

    Attributes:
        checked: numbers recomputed.
        mismatches: one line a number that does not match, naming file and number.
        left: by reason, where numbers are that the files do not determine.
    """

    checked: int = 0
    mismatches: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unchecked(self) -> list[str]:
        """One line a reason why numbers were not checked."""
        return [
            f"{where[0]}" + (f" and {len(where) - 1} more" if where[1:] else "") + f": {why}"
            for why, where in self.left.items()
        ]

    def compare(self, where: str, published: Any, again: Any) -> None:
        """Counts one number, and names it where the two differ."""
        self.checked += 1
        if not _same(published, again):
            self.mismatches.append(f"{where}: published {published!r}, recomputed {again!r}")

    def leave(self, where: str, why: str) -> None:
        """Names what is not checked."""
        self.left.setdefault(why, []).append(where)


def verify(library: Library) -> Verification:
    """Recomputes every run of ours."""
    found = Verification()
    for run in library.runs:
        if run.early_exit is not None:
            _verify_run(library, run, found)
    return found


def _verify_run(library: Library, run: Run, found: Verification) -> None:
    block = run.early_exit or {}
    try:
        published = RunTotals.from_json(block)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found.mismatches.append(f"{run.path}: early_exit cannot be read: {error!r}"[:300])
        return
    costs = costs_of(run)
    if costs is not None:
        found.compare(f"{run.path} early_exit layers", block.get("layers"), costs.n_layers)
    again = RunTotals()
    for task in run.tasks():
        if run.is_group(task):
            _verify_group(run, task, found)
            continue
        where = f"{run.path} {task}"
        samples = library.samples(run, task)
        if samples is None:
            found.leave(where, "means and standard errors: no samples (--log_samples)")
        else:
            _verify_means(run, task, samples, found)
        if task in published.tasks:
            again.add(task, _task_again(library, run, task, published.tasks[task], samples, found))
    for task in published.tasks.keys() - again.tasks.keys():
        again.add(task, published.tasks[task])
    _compare_all(f"{run.path} early_exit", block, again.to_json(), found)


def _verify_means(run: Run, task: str, samples: Sequence[Sample], found: Verification) -> None:
    """Every aggregate of the task's results, and the standard errors of means."""
    where = f"{run.path} {task}"
    for key, value in run.values(task).items():
        name = f"{where} {key.metric},{key.filter}"
        kind = _aggregation(run, task, key.metric)
        chosen = [s for s in samples if s.filter == key.filter and key.metric in s.metrics]
        again = aggregate(kind, [sample.metrics[key.metric] for sample in chosen])
        if again is None:
            found.leave(name, f"its aggregation, {kind}, does not follow from what is logged")
            continue
        found.compare(name, value.mean, again)
        if kind == "mean" and value.stderr is not None and len(chosen) > 1:
            numbers = [float(sample.metrics[key.metric]) for sample in chosen]
            found.compare(f"{name} stderr", value.stderr, mean_stderr(numbers))
    counted = run.of_task("n-samples", task)
    if isinstance(counted, Mapping) and "effective" in counted:
        ids = {sample.doc_id for sample in samples}
        found.compare(f"{where} n-samples", counted["effective"], len(ids))


def _aggregation(run: Run, task: str, metric: str) -> str:
    """lm-eval's name of a metric's aggregation."""
    if metric in HIGHER_IS_BETTER:
        return "mean"
    name = metric.removeprefix(FULL_DEPTH_PREFIX)
    for listed in (run.of_task("configs", task) or {}).get("metric_list") or ():
        if isinstance(listed, Mapping) and listed.get("metric") == name:
            return str(listed.get("aggregation", "unknown"))
    return "unknown"


def _task_again(
    library: Library,
    run: Run,
    task: str,
    published: TaskTotals,
    samples: Sequence[Sample] | None,
    found: Verification,
) -> TaskTotals:
    """The task's totals from its trace; without one, the published, for their own arithmetic."""
    where = f"{run.path} {task}"
    files = run.trace_files(task)
    if not files:
        found.leave(where, "tokens, depths, FLOPs and consistency: no trace (trace_dir)")
        return published
    lines = library.lines(files)
    if lines is None:
        found.mismatches.append(f"{where}: its trace cannot be read")
        return published
    if not run.owns(task, lines):
        later = _owner(library, task, files, lines)
        if later is not None:
            found.leave(where, _REPLACED.format(later.path))
            return published
        found.mismatches.append(f"{where}: {files[0]} {_OTHER_DEPTHS}")
    ledger = ledger_of(run)
    if ledger is None:
        found.leave(where, "FLOPs: depths alone do not determine them, or the widths are unknown")
    try:
        documents = documents_again(lines, ledger)
    except ValueError as error:
        found.mismatches.append(f"{where}: its trace does not fit the settings: {error}")
        return published
    answers = texts = None
    if samples is not None:
        ours = [sample for sample in samples if sample.filter == first_filter(run, task)]
        answers = sum(len(response) for sample in ours for response in sample.responses)
        texts = _texts_of(run, task, ours)
        _verify_documents(run, task, ours, documents, found)
    return totals_again(documents, published, answers, texts)


def _texts_of(run: Run, task: str, samples: Iterable[Sample]) -> Texts:
    """How many answers were generated, empty and different, from the logged ones."""
    if (run.of_task("configs", task) or {}).get("output_type") != GENERATION:
        return Texts()
    responses = (answer for one in samples for some in one.responses for answer in some)
    return Texts.of(text_key(str(answer)) for answer in responses)


def _owner(
    library: Library, task: str, files: Sequence[Path], lines: Sequence[TraceLine]
) -> Run | None:
    """Another run that traced into the same files, and whose depths these are."""
    sharing = (run for run in library.runs if list(run.trace_files(task)) == list(files))
    return next((run for run in sharing if run.owns(task, lines)), None)


def _verify_documents(
    run: Run,
    task: str,
    samples: Iterable[Sample],
    documents: Mapping[int, DocumentAgain],
    found: Verification,
) -> None:
    """Every key of every document against its tokens."""
    kind = (run.of_task("configs", task) or {}).get("output_type")
    unknown = 0
    for sample in samples:
        where = f"{run.path} {task} document {sample.doc_id}"
        document = documents.get(sample.doc_id)
        if document is None:
            found.mismatches.append(f"{where}: not in the trace")
            continue
        for name, value in document.values().items():
            if name in sample.metrics:
                found.compare(f"{where} {name}", sample.metrics[name], value)
        if run.layers is not None:
            wrong = document.beside_definition(run.layers, str(run.settings.get("skipped_state")))
            found.compare(f"{where} tokens of full depth that full depth would not emit", 0, wrong)
        if kind == GENERATION:
            unknown += not _verify_generation(where, sample, document, found)
        else:
            _verify_greedy(where, sample, document, found)
            unknown += "consistency" in sample.metrics
    if unknown:
        found.leave(f"{run.path} {task} ({unknown} documents)", _TAKES_THE_MODEL)


def _verify_generation(
    where: str, sample: Sample, document: DocumentAgain, found: Verification
) -> bool:
    """What full agreement implies: the full-depth answer is the run's, and so is its score.

    Returns:
        Whether that was everything the sample says of full depth.
    """
    consistency = sample.number("consistency")
    implied = document.agrees
    if consistency is not None and implied:
        found.compare(f"{where} consistency", consistency, 1.0)
    if consistency == 1.0:
        for name, value in sample.metrics.items():
            own = name.removeprefix(FULL_DEPTH_PREFIX)
            if own != name and own in sample.metrics:
                found.compare(f"{where} {name}", value, sample.metrics[own])
    return consistency is None or implied


def _verify_greedy(
    where: str, sample: Sample, document: DocumentAgain, found: Verification
) -> None:
    """The logged ``is_greedy`` against the tokens: it ties the samples to the trace."""
    greedy = document.greedy()
    for index, responses in enumerate(sample.responses):
        for repeat, response in enumerate(responses):
            if isinstance(response, list) and len(response) == 2 and (index, repeat) in greedy:
                name = f"{where} request {index} is_greedy"
                found.compare(name, str(response[1]), str(greedy[index, repeat]))


def _verify_group(run: Run, group: str, found: Verification) -> None:
    """A group's averages of our keys: weighted by documents, as lm-eval pools them."""
    leaves = _leaves(run, group)
    for key, value in run.values(group).items():
        if key.metric not in HIGHER_IS_BETTER:
            continue
        parts = [(run.values(task).get(key), run.documents(task)) for task in leaves]
        known = [(part, size) for part, size in parts if part is not None and size]
        name = f"{run.path} group {group} {key.metric},{key.filter}"
        total = sum(size for _, size in known)
        if not total:
            found.leave(name, "its tasks' numbers are not in the results")
            continue
        found.compare(name, value.mean, sum(part.mean * size for part, size in known) / total)
        stderrs = [(part.stderr, size) for part, size in known if part.stderr is not None]
        if value.stderr is not None and len(stderrs) == len(known) and total > len(known):
            pooled = sum((size - 1) * stderr**2 * size for stderr, size in stderrs)
            again = math.sqrt(pooled / (total - len(known)) / total)
            found.compare(f"{name} stderr", value.stderr, again)


def _leaves(run: Run, group: str) -> list[str]:
    """The tasks of a group, of its groups too, each once."""
    found: dict[str, None] = {}
    for child in (run.data.get("group_subtasks") or {}).get(group) or ():
        found.update(dict.fromkeys(_leaves(run, child) if run.is_group(child) else [child]))
    return list(found)


def _compare_all(where: str, published: Any, again: Any, found: Verification) -> None:
    """Every number of ``again``, in whatever it is nested, against the published one."""
    if isinstance(again, Mapping):
        there = published if isinstance(published, Mapping) else {}
        for name, value in again.items():
            _compare_all(f"{where} {name}", there.get(name), value, found)
        if where.endswith("depth_histogram"):
            for name in there.keys() - again.keys():
                found.compare(f"{where} {name}", there[name], None)
    else:
        found.compare(where, published, again)


def _same(published: Any, again: Any) -> bool:
    if is_number(published) and is_number(again):
        if isinstance(published, int) and isinstance(again, int):
            return published == again
        return math.isclose(published, again, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return bool(published == again)
