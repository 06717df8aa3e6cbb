"""Checks that a task's samples are complete, and consistent with its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamax_lm.core.summary import GENERATION, HIGHER_IS_BETTER, SCORING
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.runs import Run, Sample

MULTIPLE_CHOICE = "multiple_choice"


def check_samples(
    where: str, run: Run, task: str, samples: Sequence[Sample], found: Verification
) -> None:
    """The lines of one task against each other, the results' keys and the configuration."""
    config: Mapping[str, Any] = run.of_task("configs", task) or {}
    published = {(key.metric, key.filter) for key in run.values(task)}
    by_filter: dict[str, list[Sample]] = {}
    for sample in samples:
        by_filter.setdefault(sample.filter, []).append(sample)
    found.compare(
        f"{where} filters", sorted(by_filter), sorted({filter for _, filter in published})
    )
    documents = run.documents(task)
    for name, some in by_filter.items():
        ids = [sample.doc_id for sample in some]
        found.compare(f"{where} documents under filter {name}", len(ids), documents)
        found.require(len(set(ids)) == len(ids), f"{where}: a document is there twice")
        keys = {metric for metric, filter in published if filter == name}
        for sample in some:
            _check_keys(f"{where} document {sample.doc_id}", sample, keys, found)
    for sample in samples:
        _check_requests(f"{where} document {sample.doc_id}", config, sample, found)


def _check_keys(where: str, sample: Sample, keys: set[str], found: Verification) -> None:
    """Metrics in the results are those of every document, and conversely."""
    logged = set(sample.metrics)
    # A document without text has no metrics over text; its tokens determine which.
    missing = sorted(keys - logged - HIGHER_IS_BETTER.keys())
    found.require(not missing, f"{where}: its metrics lack {', '.join(missing)}")
    numbers = sorted(name for name in logged - keys if sample.number(name) is not None)
    found.require(not numbers, f"{where}: {', '.join(numbers)} is not in the results")


def _check_requests(
    where: str, config: Mapping[str, Any], sample: Sample, found: Verification
) -> None:
    requests = len(sample.prompts)
    found.compare(f"{where} responses", len(sample.responses), requests)
    found.compare(f"{where} filtered responses", len(sample.filtered), requests)
    repeats = config.get("repeats", 1)
    for index, responses in enumerate(sample.responses):
        found.compare(f"{where} repeats of request {index}", len(responses), repeats)
    kind = config.get("output_type")
    if kind == GENERATION:
        wanted = config.get("generation_kwargs")
        for options in sample.options:
            found.compare_exactly(f"{where} generation_kwargs", options, wanted)
    elif kind == MULTIPLE_CHOICE:
        _check_options(where, sample, found)
    elif kind == SCORING:
        found.require(all(sample.continuations), f"{where}: a request has no continuation")


def _check_options(where: str, sample: Sample, found: Verification) -> None:
    """Options share their context, or have the same continuation; some may have no context."""
    conditional = [pair for pair in _pairs(sample) if pair[0] != ""]
    found.require(all(sample.continuations), f"{where}: an option has no continuation")
    alike = min(len({pair[side] for pair in conditional}) for side in (0, 1)) if conditional else 1
    found.require(alike == 1, f"{where}: its options differ in both prompt and continuation")


def _pairs(sample: Sample) -> list[tuple[str, str | None]]:
    return list(zip(sample.prompts, sample.continuations, strict=False))
