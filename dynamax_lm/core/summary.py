"""From records to reported values: per document, per task, and for a whole run.

This module defines every reported value (README, "What the numbers mean"), from requests with their
answers; it imports neither torch nor lm-eval.

Each value is computed over the tokens of the returned texts, and again over all generated tokens:
those that only make the stop sequence are often a large fraction, and easy to predict.

There are two kinds of averages. A `DocumentSummary` holds the values of one document, which lm-eval
averages and gives a standard error. A `TaskTotals` pools tokens, so that a long answer weighs more;
pooled values are reported with the run's settings, never in the table.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any, NamedTuple, cast

from dynamax_lm.core.trace import AnswerTrace, DraftRound, ExitRecord, FlopsBreakdown, Noise

NOISE = "agreement_noise"
"""The key of the noise floor; tasks report it where it is not 0."""

SCHEMA = 2
"""Version of the JSON format of `RunTotals`, raised where old readers would misread a value."""

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
    """One response as lm-eval stores it, and its record."""

    response: Any
    record: ExitRecord


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a document.

    Attributes:
        kind: lm-eval's name of the request type.
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


class Texts(NamedTuple):
    """Numbers of generated texts: all, empty and distinct.

    To pool parts of one task use `of` with all their texts; `pooled` counts a text of both parts
    twice.

    Attributes:
        answers: generated answers, one per request and repeat.
        empty: those of white space alone.
        distinct: different ones, leading and trailing white space aside; empty texts count as one.
    """

    answers: int = 0
    empty: int = 0
    distinct: int = 0

    @classmethod
    def of(cls, keys: Iterable[str]) -> Texts:
        """The counts of texts given by their `text_key`."""
        counted = Counter(keys)
        return cls(counted.total(), counted[""], len(counted))

    @property
    def mostly_empty(self) -> bool:
        """Whether more than half are empty: such answers support no conclusion."""
        return 2 * self.empty > self.answers

    @property
    def few(self) -> bool:
        """Whether fewer than half are distinct: agreement with full depth is then easy to reach."""
        return 2 * self.distinct < self.answers

    def pooled(self, other: Texts) -> Texts:
        """Sums of both; distinct texts are counted within each part."""
        return Texts(*(a + b for a, b in zip(self, other, strict=True)))


def text_key(text: str) -> str:
    """A short hash of a text; empty for one of white space alone."""
    bare = text.strip()
    return hashlib.sha256(bare.encode("utf-8", "surrogatepass")).hexdigest()[:16] if bare else ""


def text_keys(requests: Iterable[Request]) -> list[str]:
    """The `text_key` of every generated answer."""
    return [
        text_key(str(answer.response))
        for request in requests
        if request.kind == GENERATION
        for answer in request.answers
    ]


class Drafts(NamedTuple):
    """Counts of drafted tokens and their verification; zeros where none were drafted.

    Attributes:
        rounds: drafts verified.
        drafted: tokens that exits emitted.
        accepted: those that are full depth's.
        inputs: tokens that ran all layers.
        tokens: tokens of the answers.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    inputs: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, traces: Iterable[AnswerTrace]) -> Drafts:
        """The counts of all lossless answers among ``traces``."""
        lossless = [trace for trace in traces if trace.rounds is not None]
        return cls.counted((len(trace), trace.rounds or ()) for trace in lossless)

    @classmethod
    def counted(cls, answers: Iterable[tuple[int, Sequence[DraftRound]]]) -> Drafts:
        """The counts of answers, each given as its tokens and its rounds."""
        pairs = list(answers)
        rounds = [one for _, some in pairs for one in some]
        return cls(
            rounds=len(rounds),
            drafted=sum(len(one.drafted) for one in rounds),
            accepted=sum(one.accepted for one in rounds),
            inputs=sum(one.inputs for one in rounds),
            tokens=sum(tokens for tokens, _ in pairs),
        )

    @property
    def acceptance_rate(self) -> float | None:
        """Share of drafted tokens that are accepted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def accepted_length(self) -> float | None:
        """Mean number of accepted tokens in a draft."""
        return self.accepted / self.rounds if self.rounds else None

    @property
    def passes_per_token(self) -> float | None:
        """Full-depth runs per token of the answers, rejected tokens included."""
        return self.inputs / self.tokens if self.tokens else None

    def pooled(self, other: Drafts) -> Drafts:
        """Both counts."""
        return Drafts(*(a + b for a, b in zip(self, other, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Counts and rates, as JSON values."""
        return {
            **self._asdict(),
            "acceptance_rate": self.acceptance_rate,
            "accepted_length": self.accepted_length,
            "passes_per_token": self.passes_per_token,
        }


@dataclass(frozen=True)
class TokenTotals:
    """Totals pooled over tokens, of the texts or of whole answers.

    Attributes:
        tokens: emitted tokens.
        depths: their number by layers used.
        compared: those with a full-depth reference token.
        agreeing: those that equal it.
        bill: FLOPs by item.
    """

    tokens: int = 0
    depths: Counter[int] = field(default_factory=Counter)
    compared: int = 0
    agreeing: int = 0
    bill: FlopsBreakdown = field(default_factory=FlopsBreakdown)

    @classmethod
    def of(cls, traces: Sequence[AnswerTrace], bill: FlopsBreakdown) -> TokenTotals:
        """The totals of all tokens of ``traces``."""
        compared = [trace for trace in traces if trace.full_depth is not None]
        return cls(
            tokens=sum(map(len, traces)),
            depths=Counter(layers for trace in traces for layers in trace.layers_used),
            compared=sum(map(len, compared)),
            agreeing=sum(trace.agreeing or 0 for trace in compared),
            bill=bill,
        )

    @property
    def layers_used(self) -> float | None:
        """Mean layers over the tokens."""
        if not self.tokens:
            return None
        return sum(layers * count for layers, count in self.depths.items()) / self.tokens

    @property
    def flops_saved(self) -> float | None:
        """Net share saved; ``None`` without tokens."""
        return self.bill.flops_saved if self.tokens else None

    @property
    def flops_saved_total(self) -> float | None:
        """The same with the prompts in both."""
        return self.bill.flops_saved_total if self.tokens else None

    @property
    def agreement(self) -> float | None:
        """Share of compared tokens that equal full depth's."""
        return self.agreeing / self.compared if self.compared else None

    def __add__(self, other: TokenTotals) -> TokenTotals:
        return TokenTotals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def to_json(self) -> dict[str, Any]:
        """Totals and the pooled values that follow from them, as JSON values."""
        return {
            "tokens": self.tokens,
            "layers_used": self.layers_used,
            "flops_saved": self.flops_saved,
            "flops_saved_total": self.flops_saved_total,
            "agreement": self.agreement,
            "compared_tokens": self.compared,
            "agreeing_tokens": self.agreeing,
            "depth_histogram": {str(k): self.depths[k] for k in sorted(self.depths)},
            "ledger": ledger(self.bill),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenTotals:
        """The totals that `to_json` wrote."""
        flops = data["ledger"]["flops"]
        return cls(
            tokens=data["tokens"],
            depths=Counter({int(k): v for k, v in data["depth_histogram"].items()}),
            compared=data["compared_tokens"],
            agreeing=data["agreeing_tokens"],
            bill=FlopsBreakdown(**{f.name: flops[f.name] for f in fields(FlopsBreakdown)}),
        )


_POOLED = ("texts", "noise", "drafts")
"""Fields of `TaskTotals` that are named tuples, which ``+`` would concatenate."""


@dataclass(frozen=True)
class TaskTotals:
    """Pooled totals of documents; adding two pools them.

    Attributes:
        documents: documents counted.
        answers: responses counted, one per request and repeat.
        prompt_tokens: tokens prefilled at full depth.
        generated_tokens: tokens of generated answers, their stop sequences included.
        texts: numbers of generated answers: all, empty and distinct.
        text: over the tokens of texts and scored continuations.
        with_stop: over all emitted tokens.
        noise: tokens that are full depth's by definition, compared with the reference's pass.
        drafts: of lossless answers, their stop sequences included.
    """

    documents: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    texts: Texts = field(default_factory=Texts)
    text: TokenTotals = field(default_factory=TokenTotals)
    with_stop: TokenTotals = field(default_factory=TokenTotals)
    noise: Noise = field(default_factory=Noise)
    drafts: Drafts = field(default_factory=Drafts)

    @property
    def stop_share(self) -> float | None:
        """Share of generated tokens that only make a stop; ``None`` if none were generated."""
        if not self.generated_tokens:
            return None
        return (self.with_stop.tokens - self.text.tokens) / self.generated_tokens

    def __add__(self, other: TaskTotals) -> TaskTotals:
        pooled = {name: getattr(self, name).pooled(getattr(other, name)) for name in _POOLED}
        summed = [f.name for f in fields(self) if f.name not in _POOLED]
        sums = {name: getattr(self, name) + getattr(other, name) for name in summed}
        return TaskTotals(**sums, **pooled)

    def to_json(self) -> dict[str, Any]:
        """Counts, then the values over texts, then those ``with_stop``, as JSON values."""
        drafts = {"drafts": self.drafts.to_json()} if self.drafts.rounds else {}
        return {
            "documents": self.documents,
            "answers": self.answers,
            "generated_answers": self.texts.answers,
            "empty_answers": self.texts.empty,
            "distinct_answers": self.texts.distinct,
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "stop_share": self.stop_share,
            NOISE: {**self.noise._asdict(), "rate": self.noise.rate},
            **self.text.to_json(),
            "with_stop": self.with_stop.to_json(),
            **drafts,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskTotals:
        """The totals that `to_json` wrote."""
        return cls(
            documents=data["documents"],
            answers=data["answers"],
            prompt_tokens=data["prompt_tokens"],
            generated_tokens=data["generated_tokens"],
            texts=Texts(data["generated_answers"], data["empty_answers"], data["distinct_answers"]),
            text=TokenTotals.from_json(data),
            with_stop=TokenTotals.from_json(data["with_stop"]),
            noise=Noise(**{name: data[NOISE][name] for name in Noise._fields}),
            drafts=Drafts(*(data.get("drafts", {}).get(name, 0) for name in Drafts._fields)),
        )


@dataclass
class RunTotals:
    """Totals of a run by task. Mutable: a run adds its tasks as they finish."""

    tasks: dict[str, TaskTotals] = field(default_factory=dict)

    def add(self, task: str, totals: TaskTotals) -> None:
        """Add ``totals`` to those of ``task``."""
        self.tasks[task] = self.tasks.get(task, TaskTotals()) + totals

    @property
    def total(self) -> TaskTotals:
        """All tasks pooled."""
        return sum(self.tasks.values(), TaskTotals())

    def to_json(self) -> dict[str, Any]:
        """The run's pooled values, and each task's below them."""
        tasks = {name: totals.to_json() for name, totals in sorted(self.tasks.items())}
        return {"schema": SCHEMA, **self.total.to_json(), "tasks": tasks}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunTotals:
        """The totals that `to_json` wrote.

        Raises:
            ValueError: the data have the format of another version.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(other_schema(data.get("schema")))
        return cls({name: TaskTotals.from_json(task) for name, task in data["tasks"].items()})


def other_schema(found: object) -> str:
    """Error line for results in the format of another version."""
    before = "; their numbers count the stop with the answer" if found == 1 else ""
    return f"early-exit totals of schema {found!r}, not {SCHEMA}{before}: run it again"


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


def ledger(bill: FlopsBreakdown) -> dict[str, Any]:
    """A bill item by item, in FLOPs and as shares.

    Shares of answer items are of the same tokens at full depth, so that they sum to
    ``1 - flops_saved``; the prompt's share is of prompt and answers at full depth.
    """
    flops = {f.name: getattr(bill, f.name) for f in fields(FlopsBreakdown)}
    items = [name for name in flops if name not in ("prompt", "full_depth")]
    whole = bill.prompt + bill.full_depth
    shares = {name: flops[name] / bill.full_depth for name in items} if bill.full_depth else {}
    return {
        "flops": {**flops, "spent": bill.spent},
        "share_of_full_depth": shares,
        "prompt_share_of_total": bill.prompt / whole if whole else None,
    }


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
