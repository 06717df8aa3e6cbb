"""Verification that published numbers follow from their samples and traces.

This module runs the checks; a fault of one run or task does not affect the others. Values that the
files do not determine are listed: per run where they depend on the run, and field by field in
`checks.rerun`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import error_line
from dynamax_lm.common.tracefile import TraceLine
from dynamax_lm.core.summary import GENERATION
from dynamax_lm.core.texts import Texts, text_key
from dynamax_lm.core.totals import NOISE, RunTotals, TaskTotals
from dynamax_lm.report.checks.answers import NO_TOKENIZER, check_answers
from dynamax_lm.report.checks.costs import check_costs
from dynamax_lm.report.checks.depths import check_depths
from dynamax_lm.report.checks.files import check_files, read_manifests
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.checks.groups import check_group
from dynamax_lm.report.checks.hashes import check_hashes
from dynamax_lm.report.checks.likelihoods import check_likelihoods
from dynamax_lm.report.checks.means import check_means
from dynamax_lm.report.checks.recompute import (
    DocumentAgain,
    documents_again,
    ledger_of,
    totals_again,
)
from dynamax_lm.report.checks.samples import check_samples
from dynamax_lm.report.checks.scores import check_scores
from dynamax_lm.report.checks.settings import check_settings
from dynamax_lm.report.checks.tables import check_tables
from dynamax_lm.report.checks.texts import Codec, codec_of
from dynamax_lm.report.costs import measure_name
from dynamax_lm.report.load import Library
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX, first_filter
from dynamax_lm.report.runs import Run, Sample

__all__ = ["Verification", "verify"]

_TAKES_THE_MODEL = (
    "consistency and full_depth metrics, where agreement does not imply them: that takes the model"
)
_REPLACED = (
    "tokens, depths and FLOPs: its trace was replaced: {} ran later with the same trace_dir; give "
    "each run its own"
)
_OTHER_DEPTHS = (
    "has other depths than the results: one of the two was changed, or another run with the same "
    "trace_dir has replaced the trace"
)


def verify(library: Library) -> Verification:
    """Recomputes every run of this package's models; unreadable files are mismatches too."""
    found = Verification()
    ours = [run for run in library.runs if run.early_exit is not None]
    manifests = read_manifests(ours, found)
    for run in ours:
        for check in (check_tables, check_settings, check_costs):
            _guarded(str(run.path), partial(check, run, found), found)
        _guarded(str(run.path), partial(check_files, run, manifests, found), found)
        _guarded(f"{run.path} early_exit", partial(_verify_run, library, run, found), found)
    if ours or found.checked:
        for line in library.problems:
            found.refuse(line)
    return found


def _guarded(where: str, check: Callable[[], None], found: Verification) -> None:
    """A damaged value invalidates its own run or task, not the whole verification."""
    try:
        check()
    except Exception as error:  # any error of a damaged value is a finding
        why = error_line(error, 160)
        found.refuse(f"{where}: cannot be verified ({why})")


def _verify_run(library: Library, run: Run, found: Verification) -> None:
    block = run.early_exit or {}
    published = RunTotals.from_json(block)
    codec = codec_of(run)
    again = RunTotals()
    for task in run.tasks():
        where = f"{run.path} {task}"
        if run.is_group(task):
            _guarded(where, partial(check_group, run, task, found), found)
            continue
        samples = library.samples(run, task)
        if samples is None:
            found.leave(where, "means and standard errors: no samples (--log_samples)")
        else:
            for check in (check_means, check_samples, check_hashes, check_scores):
                _guarded(where, partial(check, where, run, task, samples, found), found)
        totals = published.tasks.get(task)
        if totals is None:
            found.refuse(f"{where}: it is not among the tasks of early_exit")
            continue
        again.add(task, _task_again(library, run, task, totals, samples, codec, found))
    for task in published.tasks.keys() - again.tasks.keys():
        found.refuse(f"{run.path} early_exit tasks {task}: it is not in the results")
        again.add(task, published.tasks[task])
    _compare_totals(f"{run.path} early_exit", block, again.to_json(), found)


def _task_again(
    library: Library,
    run: Run,
    task: str,
    published: TaskTotals,
    samples: Sequence[Sample] | None,
    codec: Codec | None,
    found: Verification,
) -> TaskTotals:
    """The task's totals from its trace; without one, the published totals."""
    where = f"{run.path} {task}"
    files = run.trace_files(task)
    if not files:
        found.leave(where, "tokens, depths, FLOPs and consistency: no trace (trace_dir)")
        return published
    lines = library.lines(files)
    if lines is None:
        found.refuse(f"{where}: its trace cannot be read")
        return published
    if not run.owns(task, lines):
        later = _owner(library, task, files, lines)
        if later is not None:
            found.leave(where, _REPLACED.format(later.path))
            return published
        found.refuse(f"{where}: {files[0]} {_OTHER_DEPTHS}")
    _guarded(where, partial(check_depths, where, run, task, lines, found), found)
    ledger = ledger_of(run)
    if ledger is None:
        found.leave(where, "FLOPs: depths alone do not determine them, or the widths are unknown")
    try:
        documents = documents_again(lines, ledger)
    except ValueError as error:
        found.refuse(f"{where}: its trace does not fit the settings: {error}")
        return published
    answers = texts = None
    if samples is not None:
        ours = [sample for sample in samples if sample.filter == first_filter(run, task)]
        answers = sum(len(response) for sample in ours for response in sample.responses)
        texts = _texts_of(run, task, ours)
        if codec is None:
            found.leave(where, NO_TOKENIZER)
        _guarded(where, partial(_verify_documents, run, task, ours, documents, codec, found), found)
    return totals_again(documents, published, answers, texts)


def _texts_of(run: Run, task: str, samples: Iterable[Sample]) -> Texts:
    """Numbers of generated, empty and distinct answers, from the logged ones."""
    if (run.of_task("configs", task) or {}).get("output_type") != GENERATION:
        return Texts()
    responses = (answer for one in samples for some in one.responses for answer in some)
    return Texts.of(text_key(str(answer)) for answer in responses)


def _owner(
    library: Library, task: str, files: Sequence[Path], lines: Sequence[TraceLine]
) -> Run | None:
    """Another run that wrote the same trace files, with these depths."""
    sharing = (run for run in library.runs if list(run.trace_files(task)) == list(files))
    return next((run for run in sharing if run.owns(task, lines)), None)


def _verify_documents(
    run: Run,
    task: str,
    samples: Iterable[Sample],
    documents: Mapping[int, DocumentAgain],
    codec: Codec | None,
    found: Verification,
) -> None:
    """Every key of every document against its tokens."""
    kind = (run.of_task("configs", task) or {}).get("output_type")
    measure, layers = measure_name(run.settings), run.layers
    unknown, seen = 0, set()
    for sample in samples:
        where = f"{run.path} {task} document {sample.doc_id}"
        seen.add(sample.doc_id)
        document = documents.get(sample.doc_id)
        if document is None:
            found.refuse(f"{where}: not in the trace")
            continue
        for name, value in document.values().items():
            if name != NOISE or name in sample.metrics:  # tasks without noise do not report it
                found.compare(f"{where} {name}", sample.metrics.get(name), value)
        if layers is not None:
            state = str(run.settings.get("skipped_state"))
            wrong = document.beside_definition(layers, state)
            found.compare(f"{where} tokens of full depth that full depth would not emit", 0, wrong)
        check_answers(where, run, task, sample, document, codec, found)
        if kind == GENERATION:
            unknown += not _verify_full_depth(where, sample, document, found)
        else:
            unknown += "consistency" in sample.metrics
            if layers is not None:
                check_likelihoods(where, sample, document.lines, measure, layers, found)
    for doc_id in sorted(documents.keys() - seen):
        found.refuse(f"{run.path} {task} document {doc_id}: in the trace, not in the samples")
    if unknown:
        found.leave(f"{run.path} {task} ({unknown} documents)", _TAKES_THE_MODEL)


def _verify_full_depth(
    where: str, sample: Sample, document: DocumentAgain, found: Verification
) -> bool:
    """Checks for full agreement: the full-depth answer and its score are the run's.

    Returns:
        Whether this determines all full-depth values of the sample.
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


def _compare_totals(
    where: str, published: Mapping[str, Any], again: Mapping[str, Any], found: Verification
) -> None:
    """The run's pooled values, and each task's; other values of the block are checked elsewhere."""
    for name, value in again.items():
        if name == "tasks":
            found.compare_exactly(f"{where} tasks", published.get("tasks"), value)
            for task, totals in value.items():
                there = (published.get("tasks") or {}).get(task)
                found.compare_exactly(f"{where} tasks {task}", there, totals)
        else:
            found.compare_exactly(f"{where} {name}", published.get(name), value)
