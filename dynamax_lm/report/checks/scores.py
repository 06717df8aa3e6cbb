"""Recomputation of every document's scores from its responses, by task code or closed forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dynamax_lm.core.summary import GENERATION, HIGHER_IS_BETTER, ROLLING, SCORING
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.checks.likelihoods import log_likelihood
from dynamax_lm.report.checks.samples import MULTIPLE_CHOICE
from dynamax_lm.report.checks.taskcode import NoTaskCodeError, TaskCode, without_addresses
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX
from dynamax_lm.report.runs import Run, Sample


def check_scores(
    where: str, run: Run, task: str, samples: Sequence[Sample], found: Verification
) -> None:
    """Every score of a task's samples, with target, options and filter."""
    config: Mapping[str, Any] = run.of_task("configs", task) or {}
    try:
        code = TaskCode(run, task, samples)
    except NoTaskCodeError as why:
        found.leave(where, f"scores by the task's own code: {why}")
        _check_in_closed_form(where, config, samples, found)
        return
    _check_configuration(where, run, config, code, found)
    by_filter: dict[str, list[Sample]] = {}
    for sample in samples:
        by_filter.setdefault(sample.filter, []).append(sample)
    for some in by_filter.values():
        try:
            _check_with_code(where, run, config, code, some, found)
        except NoTaskCodeError as why:
            found.leave(where, f"scores by the task's own code: {why}")


def _check_configuration(
    where: str, run: Run, config: Mapping[str, Any], code: TaskCode, found: Verification
) -> None:
    """The logged configuration is that of the file, if the same release is installed."""
    import lm_eval

    from dynamax_lm import __version__

    ours = ((run.early_exit or {}).get("identity") or {}).get("version")
    if run.data.get("lm_eval_version") != lm_eval.__version__ or ours != __version__:
        found.leave(where, "its configuration: another release of lm-eval or dynamax_lm made it")
        return
    again = code.configuration
    for name, value in without_addresses(config).items():
        if name in again:
            found.compare(f"{where} configs {name}", value, again[name])
    missing = sorted(set(again) - set(config))
    found.require(not missing, f"{where} configs: lacks {', '.join(missing)}")
    if config.get("output_type") == GENERATION:
        _check_generation_options(where, run, config, code, found)


def _check_generation_options(
    where: str, run: Run, config: Mapping[str, Any], code: TaskCode, found: Verification
) -> None:
    """The options of a task's answers are those of its file, then those of the command line."""
    given = (run.data.get("config") or {}).get("gen_kwargs", "missing")
    if given and not isinstance(given, Mapping):
        found.refuse(f"{where} config gen_kwargs: {str(given)[:80]} are no options")
        return
    again = {**code.generation_options, **(given or {})}
    found.compare(f"{where} configs generation_kwargs", config.get("generation_kwargs"), again)


def _check_with_code(
    where: str,
    run: Run,
    config: Mapping[str, Any],
    code: TaskCode,
    samples: Sequence[Sample],
    found: Verification,
) -> None:
    kind = str(config.get("output_type"))
    requests = SCORING if kind == MULTIPLE_CHOICE else kind
    plain_prompts = not run.data.get("chat_template")
    for sample, filtered in zip(samples, code.filtered(samples, requests), strict=True):
        name = f"{where} document {sample.doc_id}"
        found.compare(f"{name} filtered_resps", list(sample.filtered), _as_logged(filtered))
        for metric, value in code.metrics(sample, filtered).items():
            if metric not in HIGHER_IS_BETTER and not metric.startswith(FULL_DEPTH_PREFIX):
                found.compare(f"{name} {metric}", sample.metrics.get(metric), value)
        found.compare(f"{name} target", sample.target, code.target(sample))
        options = code.continuations(sample)
        if options is not None and kind == MULTIPLE_CHOICE:
            found.compare(f"{name} options", list(sample.continuations[: len(options)]), options)
        question = code.question(sample)
        if question is not None and plain_prompts and sample.prompts and kind != ROLLING:
            right = sample.prompts[0].endswith(question)
            found.require(right, f"{name}: its prompt does not end with its question")


def _as_logged(filtered: Sequence[Any]) -> list[Any]:
    """Responses in lm-eval's log format: every part as text."""
    return [_as_logged(one) if isinstance(one, (list, tuple)) else str(one) for one in filtered]


def _check_in_closed_form(
    where: str, config: Mapping[str, Any], samples: Sequence[Sample], found: Verification
) -> None:
    """Accuracies that every task of lm-eval's plain kinds computes alike."""
    if config.get("process_results") is not None:
        return
    kind = config.get("output_type")
    delimiter = str(config.get("target_delimiter", " "))
    for sample in samples:
        name = f"{where} document {sample.doc_id}"
        if sample.filter == "none" and kind != GENERATION:
            first = [answers[0] for answers in sample.responses if answers]
            found.compare(f"{name} filtered_resps", list(sample.filtered), first)
        again: dict[str, float] = {}
        if kind == SCORING:
            again = _single(sample)
        elif kind == MULTIPLE_CHOICE:
            again = _choice(sample, delimiter)
        for metric, value in again.items():
            if metric in sample.metrics:
                found.compare(f"{name} {metric}", sample.metrics[metric], value)


def _single(sample: Sample) -> dict[str, float]:
    """A document with one continuation."""
    pair = sample.filtered[0] if sample.filtered else None
    total = log_likelihood(pair)
    if total is None or pair is None:
        return {}
    return {"acc": int(pair[1] == "True"), "perplexity": total}


def _choice(sample: Sample, delimiter: str) -> dict[str, float]:
    """A document whose answer is the most likely option; the first of equal ones."""
    totals = [log_likelihood(pair) for pair in sample.filtered]
    options = [text for text in sample.continuations if text is not None]
    gold = sample.target
    if not gold.isdigit() or None in totals or len(options) != len(totals):
        return {}
    known = [total for total in totals if total is not None]
    texts = [option.removeprefix(delimiter) for option in options]
    by: Mapping[str, Callable[[str], float]] = {
        "acc": lambda text: 1.0,
        "acc_norm": lambda text: float(len(text)),
        "acc_bytes": lambda text: float(len(text.encode("utf-8"))),
    }
    scores = {}
    for metric, length in by.items():
        lengths = [length(text) for text in texts]
        if all(lengths):
            normed = [total / long for total, long in zip(known, lengths, strict=True)]
            scores[metric] = float(max(range(len(normed)), key=normed.__getitem__) == int(gold))
    return scores
