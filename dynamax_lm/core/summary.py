"""From records to reported values: per document, per task, and for a whole run.

This module defines every reported value (docs/numbers.md), from requests with their
answers; it imports no torch.

Each value is computed over the tokens of the returned texts, and again over all generated tokens:
those that only make the stop sequence are often a large fraction, and easy to predict.

There are two kinds of averages. A `DocumentSummary` holds the values of one document; the table has
their means over documents, with standard errors. A `TaskTotals` pools tokens, so that a long answer
weighs more; pooled values are reported with the run's settings, never in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, NamedTuple, cast

from dynamax_lm.core.drafts import Drafts
from dynamax_lm.core.texts import Texts, text_key
from dynamax_lm.core.totals import TaskTotals, TokenTotals
from dynamax_lm.core.trace import ExitRecord, FlopsBreakdown, Noise

GENERATION = "generate_until"
SCORING = "loglikelihood"
ROLLING = "loglikelihood_rolling"

HIGHER_IS_BETTER: Mapping[str, bool | None] = {
    "layers_used": False,
    "layers_used_with_stop": False,
    "flops_saved": True,
    "flops_saved_with_stop": True,
    "flops_saved_total": True,
    "agreement": True,
    "agreement_with_stop": True,
    "consistency": True,
    "agreement_noise": False,
    "stop_share": None,
    "acceptance_rate": True,
    "accepted_length": True,
    "passes_per_token": False,
}
"""Every per-document key, and whether higher is better; ``None`` where neither direction is."""


class Answer(NamedTuple):
    """One response and its record."""

    response: Any
    record: ExitRecord


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a document.

    Attributes:
        kind: of the request: ``GENERATION``, ``SCORING`` or ``ROLLING``.
        answers: one per repeat.
        unconditional: an option scored without its question, for mutual information: its tokens
            count, but the choice among options does not include it.
    """

    kind: str
    answers: tuple[Answer, ...]
    unconditional: bool = False


@dataclass(frozen=True, slots=True)
class DocumentSummary:
    """One document's values; ``None`` where the document has none.

    A document whose answers have no text has no depth, saving or agreement over text; its tokens
    count in the values ``with_stop``, which only generated answers have.

    Attributes:
        layers_used: mean over the tokens of the document's texts, all requests and repeats.
        flops_saved: net share of the texts' full-depth FLOPs; may be negative.
        flops_saved_total: the same with the prompts in both.
        agreement: share of the texts' emitted tokens equal to full depth's.
        consistency: share of repeats whose answer is full depth's own.
        agreement_noise: share of the tokens that are full depth's by definition on which the
            reference's parallel pass emits another token: the loss of agreement that rounding alone
            can cause; over all emitted tokens.
        layers_used_with_stop: mean over all generated tokens, up to and including the stop.
        flops_saved_with_stop: over all generated tokens.
        agreement_with_stop: over all generated tokens.
        stop_share: share of the generated tokens that only make the stop sequence, in [0, 1].
        acceptance_rate: of a lossless document, the share of drafted tokens that are accepted.
        accepted_length: of a lossless document, the mean number of accepted tokens in a draft.
        passes_per_token: of a lossless document, full-depth runs per token of its answers: 1 if no
            token is rejected.
    """

    layers_used: float | None
    flops_saved: float | None
    flops_saved_total: float | None
    agreement: float | None
    consistency: float | None
    agreement_noise: float | None = None
    layers_used_with_stop: float | None = None
    flops_saved_with_stop: float | None = None
    agreement_with_stop: float | None = None
    stop_share: float | None = None
    acceptance_rate: float | None = None
    accepted_length: float | None = None
    passes_per_token: float | None = None

    def values(self) -> dict[str, float]:
        """The values that are not ``None``, by key."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in pairs if value is not None}


def text_keys(requests: Iterable[Request]) -> list[str]:
    """The `text_key` of every generated answer."""
    return [
        text_key(str(answer.response))
        for request in requests
        if request.kind == GENERATION
        for answer in request.answers
    ]


def summarise(requests: Sequence[Request]) -> DocumentSummary:
    """One document's values from all its requests and repeats."""
    totals = pool([requests])
    text, whole = totals.text, totals.with_stop
    plain = DocumentSummary(
        layers_used=text.layers_used,
        flops_saved=text.flops_saved,
        flops_saved_total=text.flops_saved_total,
        agreement=text.agreement if text.compared == text.tokens else None,
        consistency=consistency(requests),
        agreement_noise=totals.noise.rate,
    )
    if not any(request.kind == GENERATION for request in requests):
        return plain
    return replace(
        plain,
        layers_used_with_stop=whole.layers_used,
        flops_saved_with_stop=whole.flops_saved,
        agreement_with_stop=whole.agreement if whole.compared == whole.tokens else None,
        stop_share=totals.stop_share,
        acceptance_rate=totals.drafts.acceptance_rate,
        accepted_length=totals.drafts.accepted_length,
        passes_per_token=totals.drafts.passes_per_token,
    )


def agreement_without_text(with_stop: float) -> float:
    """The agreement of a document without text, for statistics over every document.

    1 if every token of its stop sequence is full depth's: full depth's answer is empty too. Else 0:
    the stop sequence replaces an answer.

    Args:
        with_stop: the document's agreement over all generated tokens, in [0, 1].
    """
    return float(with_stop == 1)


def pool(documents: Sequence[Sequence[Request]]) -> TaskTotals:
    """Token-pooled totals of documents, each given as its requests."""
    requests = [request for some in documents for request in some]
    records = _records(requests)
    traces = [trace for record in records for trace in record.traces]
    generated = _records([request for request in requests if request.kind == GENERATION])
    return TaskTotals(
        documents=len(documents),
        answers=len(records),
        prompt_tokens=sum(trace.prompt_tokens for trace in traces),
        generated_tokens=sum(len(trace) for record in generated for trace in record.traces),
        texts=Texts.of(text_keys(requests)),
        text=TokenTotals.of(
            [trace.text for trace in traces],
            sum((record.billed_text for record in records), FlopsBreakdown()),
        ),
        with_stop=TokenTotals.of(
            traces, sum((record.bill for record in records), FlopsBreakdown())
        ),
        noise=reduce(Noise.pooled, (trace.noise for trace in traces), Noise()),
        drafts=Drafts.of(traces),
    )


def consistency(requests: Sequence[Request]) -> float | None:
    """Share of repeats in which every answer of the document is full depth's own.

    Defined by this package. CALM (arXiv 2207.07061) uses "consistency" for a bound on a chosen
    dissimilarity of texts, or for a token equal to the last layer's; here the whole answer must be
    the same.

    A generation is its text; several scored continuations are options, and the answer is the one of
    highest log-likelihood; a single one is its ``is_greedy``. Rolling likelihoods have no answer.

    Returns:
        ``None`` without a reference, or where no request is an answer.
    """
    texts = [r for r in requests if r.kind == GENERATION]
    scores = [r for r in requests if r.kind == SCORING and not r.unconditional]
    answering = texts + scores
    if not answering or any(a.record.reference is None for r in answering for a in r.answers):
        return None
    repeats = min(len(r.answers) for r in answering)
    if not repeats:
        return None
    same = [
        all(_same_text(r.answers[i]) for r in texts)
        and _same_choice([r.answers[i] for r in scores])
        for i in range(repeats)
    ]
    return sum(same) / repeats


def _records(requests: Iterable[Request]) -> list[ExitRecord]:
    return [answer.record for request in requests for answer in request.answers]


def _same_text(answer: Answer) -> bool:
    return str(answer.response) == answer.record.reference


def _same_choice(answers: Sequence[Answer]) -> bool:
    pairs = [(a.response, cast("tuple[float, bool]", a.record.reference)) for a in answers]
    if len(pairs) < 2:
        return all(bool(ours[1]) == bool(full[1]) for ours, full in pairs)
    ours_best = max(range(len(pairs)), key=lambda i: pairs[i][0][0])
    full_best = max(range(len(pairs)), key=lambda i: pairs[i][1][0])
    return ours_best == full_best
