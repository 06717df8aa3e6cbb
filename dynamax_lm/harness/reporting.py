"""From the records of a task's answers to its added metrics, the run's totals and the trace file.

This runs when lm-eval applies a task's filters, which every rank does with all raw answers,
computed or cached. `metric_injection` then reports the values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dynamax_lm.common.tracefile import TraceWriter
from dynamax_lm.core.summary import Answer, Request, pool, summarise, text_keys
from dynamax_lm.core.texts import Texts
from dynamax_lm.core.totals import NOISE, TaskTotals
from dynamax_lm.harness.enough_documents import build_where_enough
from dynamax_lm.harness.metric_injection import Tap, remove_tap
from dynamax_lm.harness.ranks import everywhere
from dynamax_lm.harness.reference import PREFIX, score_reference
from dynamax_lm.harness.responses import record_of
from dynamax_lm.harness.run_registry import Run, bring_forward, recordless, run_behind, run_of
from dynamax_lm.harness.setup import build_noted, setup_of
from dynamax_lm.harness.task_parts import metric_names

_SAMPLES = "_early_exit_samples"

Documents = dict[int, list[tuple[Any, Request]]]
Values = dict[int, dict[str, Any]]


class _Part(NamedTuple):
    """Totals of one rank's part of a task, for the other ranks."""

    totals: TaskTotals
    texts: list[str]
    keys: frozenset[str]
    skipped: str | None


class _Clock:
    """Number of the evaluation: all requests are built before the first task reports.

    ``ours`` is whether the model that is evaluated is one of this package's.
    """

    evaluation = 0
    reporting = False
    ours = False


def around_evaluate(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Wraps ``evaluate``: makes the run of this model, or of the model behind a cache, current.

    A model may be evaluated several times; ``begin_evaluation()`` tells it so, if it has it.
    """
    lm = kwargs.get("lm", args[0] if args else None)
    model = getattr(lm, "__dict__", {}).get("lm", lm)
    bring_forward(model)
    _Clock.ours = run_of(model) is not None
    begin = getattr(model, "begin_evaluation", None)
    if _Clock.ours and begin is not None:
        begin()
    return original(*args, **kwargs)


def around_build_all_requests(original: Callable[..., Any], task: Any, **kwargs: Any) -> Any:
    """Wraps ``Task.build_all_requests``: an evaluation begins."""
    if _Clock.reporting:
        _Clock.evaluation, _Clock.reporting = _Clock.evaluation + 1, False
    setattr(task, _SAMPLES, kwargs.get("samples"))
    if not _Clock.ours:
        return build_noted(original, task, kwargs)
    return build_where_enough(lambda: build_noted(original, task, kwargs), task, kwargs)


def around_apply_filters(original: Callable[[Any], Any], task: Any) -> Any:
    """Wraps ``Task.apply_filters``: a task's answers are complete."""
    remove_tap(task)
    instances = [i for i in task.instances or () if i.resps]
    carried = [record_of(response) is not None for i in instances for response in i.resps]
    if not any(carried):
        return original(task)
    if not all(carried):
        raise recordless()
    for instance in instances:
        # With several ranks, lm-eval pads batches by repeating a request; the repeats of the
        # task come first, and filters that vote must get no others.
        del instance.resps[instance.repeats or len(instance.resps) :]
    filtered = original(task)
    _report(task, _documents(task, instances))
    return filtered


def _report(task: Any, documents: Documents) -> None:
    """Adds the documents' values to the task, and its totals to the run's, on every rank."""
    everything = _requests(documents)
    run = run_behind(a.record for requests in everything for r in requests for a in r.answers)
    _Clock.reporting = True
    run.enter(_Clock.evaluation)
    ranks = run.ranks()
    assert ranks is not None, "run_behind returns runs of models that are alive"

    values: Values = {}
    for doc_id, pairs in documents.items():
        values[doc_id] = dict(summarise([request for _, request in pairs]).values())
    # With several ranks, the metrics' names must be known before lm-eval scores.
    reference = score_reference(task, documents, all_of_them=ranks.world_size > 1)
    first, *others = reference.by_filter or [{}]
    for doc_id, metrics in first.items():
        values[doc_id].update(metrics)
    keys = frozenset(key for document in values.values() for key in document)
    texts = text_keys(request for requests in everything for request in requests)
    parts = everywhere(ranks, _Part(pool(everything), texts, keys, reference.skipped))

    # lm-eval gathers metrics by rank 0's keys and fails where a rank has none of one.
    shared = frozenset.intersection(*(part.keys for part in parts))
    if not any(part.totals.noise.differing for part in parts):
        shared -= {NOISE}
    _note_skips(run, task.task_name, parts, shared)
    if run.live.certificate is not None:
        run.setups[task.task_name] = setup_of(task)
    totals = sum((part.totals for part in parts), TaskTotals())
    all_texts = Texts.of(key for part in parts for key in part.texts)
    run.totals.add(task.task_name, replace(totals, texts=all_texts))
    Tap(
        task,
        [
            {doc: _only(shared, metrics) for doc, metrics in some.items()}
            for some in (values, *others)
        ],
        reference.same,
    )
    _write_trace(run, task, documents, rank=ranks.rank, of=ranks.world_size)


def _documents(task: Any, instances: Iterable[Any]) -> Documents:
    """Instances by document, in the order in which lm-eval scores them."""
    mutual = "acc_mutual_info" in metric_names(task)
    grouped: defaultdict[int, list[Any]] = defaultdict(list)
    for instance in instances:
        grouped[instance.doc_id].append(instance)
    documents: Documents = {}
    for doc_id, members in grouped.items():
        members.sort(key=lambda instance: int(instance.idx))
        aside = _unconditional(members) if mutual else range(0)
        documents[doc_id] = [
            (instance, _request(instance, position in aside))
            for position, instance in enumerate(members)
        ]
    return documents


def _request(instance: Any, unconditional: bool) -> Request:
    answers = []
    for response in instance.resps:
        record = record_of(response)
        if record is None:
            raise recordless()
        answers.append(Answer(response, record))
    return Request(instance.request_type, tuple(answers), unconditional)


def _unconditional(members: Sequence[Any]) -> range:
    """Positions of the options that mutual information scores without their question.

    lm-eval appends one for each option, with an empty context, after the real ones. The real ones'
    context may be empty as well (blimp's is), so call this only where the task asks for the metric.
    """
    half = len(members) // 2
    tail = members[half:]
    paired = len(members) % 2 == 0 and len({m.request_type for m in members}) == 1
    if not paired or any(len(m.args) < 2 or m.args[0] != "" for m in tail):
        return range(0)
    return range(half, len(members))


def _requests(documents: Documents) -> list[list[Request]]:
    return [[request for _, request in pairs] for pairs in documents.values()]


def _only(keys: frozenset[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in keys}


def _note_skips(run: Run, task: str, parts: Sequence[_Part], shared: frozenset[str]) -> None:
    """Records which metrics the task does not report, and why."""
    reason = next((part.skipped for part in parts if part.skipped), None)
    notes = {f"{PREFIX}*": reason} if reason else {}
    noisy = any(part.totals.noise.differing for part in parts)
    for key in sorted(frozenset.union(*(part.keys for part in parts)) - shared):
        if key == NOISE and not noisy:
            continue
        if not (reason and key.startswith(PREFIX)):
            notes[key] = "one of the processes has no document with it"
    if notes:
        run.skipped[task] = notes


def _write_trace(run: Run, task: Any, documents: Documents, rank: int, of: int) -> None:
    folder = run.live.trace_dir
    if folder is None:
        return
    samples = getattr(task, _SAMPLES, None)
    with TraceWriter(folder, task.task_name, rank, of) as writer:
        for doc_id, pairs in documents.items():
            number = samples[doc_id] if samples else doc_id  # as lm-eval numbers its samples
            for index, (_, request) in enumerate(pairs):
                for repeat, answer in enumerate(request.answers):
                    writer.write(number, index, repeat, answer.record.traces)
