"""From records to the numbers people read: per document, per task, and for a whole run.

Owns the meaning of every reported number (DESIGN, "Likeness to full depth" and "Averages"). It does
not know of lm-eval, models or files: it is given requests with their answers, and returns numbers.

Two kinds of averages live here. A `DocumentSummary` holds one document's own values, which lm-eval
averages and gives a standard error. A `TaskTotals` pools tokens, so that a long answer weighs more;
pooled values stand beside the run's settings, never in the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import Any, NamedTuple, cast

from dynamax_lm.trace import Bill, ExitRecord, Noise

NOISE = "agreement_noise"
"""The key of the noise floor; tasks report it where it is not 0."""

SCHEMA = 1
"""Version of the JSON form of `RunTotals`, raised when readers of the old one would misread it."""

GENERATION = "generate_until"
SCORING = "loglikelihood"
ROLLING = "loglikelihood_rolling"

HIGHER_IS_BETTER: Mapping[str, bool] = {
    "layers_used": False,
    "flops_saved": True,
    "flops_saved_total": True,
    "agreement": True,
    "consistency": True,
    "agreement_noise": False,
}
"""Every per-document key, and which way is better."""


class Answer(NamedTuple):
    """One response as the harness holds it, and the record that came with it."""

    response: Any
    record: ExitRecord


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a document.

    Attributes:
        kind: lm-eval's name of the request type.
        answers: one per repeat.
        unconditional: an option scored without its question, as mutual information asks for: its
            tokens count, but it takes no part in the choice.
    """

    kind: str
    answers: tuple[Answer, ...]
    unconditional: bool = False


@dataclass(frozen=True, slots=True)
class DocumentSummary:
    """One document's values; ``None`` where the document has none.

    Attributes:
        layers_used: mean over the document's emitted tokens, all requests and repeats.
        flops_saved: net share of the answers' full-depth FLOPs; may be negative.
        flops_saved_total: the same with the prompts in both.
        agreement: share of emitted tokens equal to full depth's.
        consistency: share of repeats whose answer is full depth's own.
        agreement_noise: share of the tokens that are full depth's by definition on which the
            reference's parallel pass emits another: what rounding alone may take off agreement.
    """

    layers_used: float | None
    flops_saved: float | None
    flops_saved_total: float | None
    agreement: float | None
    consistency: float | None
    agreement_noise: float | None = None

    def values(self) -> dict[str, float]:
        """The values there are, by key."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in pairs if value is not None}


@dataclass(frozen=True)
class TaskTotals:
    """Token-pooled totals; adding two pools them.

    Attributes:
        documents: documents counted.
        answers: responses counted, one per request and repeat.
        tokens: emitted tokens.
        prompt_tokens: tokens prefilled at full depth.
        depths: emitted tokens by layers used.
        compared: emitted tokens that have a full-depth token beside them.
        agreeing: those of them that equal it.
        bill: FLOPs by item.
        noise: tokens that are full depth's by definition, held against the reference's pass.
    """

    documents: int = 0
    answers: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    depths: Counter[int] = field(default_factory=Counter)
    compared: int = 0
    agreeing: int = 0
    bill: Bill = field(default_factory=Bill)
    noise: Noise = field(default_factory=Noise)

    @property
    def layers_used(self) -> float | None:
        """Mean layers over all emitted tokens."""
        if not self.tokens:
            return None
        return sum(layers * count for layers, count in self.depths.items()) / self.tokens

    @property
    def agreement(self) -> float | None:
        """Share of compared tokens that equal full depth's."""
        return self.agreeing / self.compared if self.compared else None

    def __add__(self, other: TaskTotals) -> TaskTotals:
        summed = [f.name for f in fields(self) if f.name != "noise"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in summed}
        return TaskTotals(**sums, noise=self.noise.pooled(other.noise))

    def to_json(self) -> dict[str, Any]:
        """Totals and the pooled values that follow from them, as JSON values."""
        return {
            "documents": self.documents,
            "answers": self.answers,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "layers_used": self.layers_used,
            "flops_saved": self.bill.flops_saved,
            "flops_saved_total": self.bill.flops_saved_total,
            "agreement": self.agreement,
            "compared_tokens": self.compared,
            "agreeing_tokens": self.agreeing,
            NOISE: {**self.noise._asdict(), "rate": self.noise.rate},
            "depth_histogram": {str(k): self.depths[k] for k in sorted(self.depths)},
            "ledger": ledger(self.bill),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskTotals:
        """The totals that `to_json` wrote."""
        flops = data["ledger"]["flops"]
        return cls(
            documents=data["documents"],
            answers=data["answers"],
            tokens=data["tokens"],
            prompt_tokens=data["prompt_tokens"],
            depths=Counter({int(k): v for k, v in data["depth_histogram"].items()}),
            compared=data["compared_tokens"],
            agreeing=data["agreeing_tokens"],
            bill=Bill(**{f.name: flops[f.name] for f in fields(Bill)}),
            noise=Noise(**{name: data[NOISE][name] for name in Noise._fields}),
        )


@dataclass
class RunTotals:
    """Totals of a run by task. Mutable: a run adds its tasks as they finish."""

    tasks: dict[str, TaskTotals] = field(default_factory=dict)

    def add(self, task: str, totals: TaskTotals) -> None:
        """Pools ``totals`` into what is known of ``task``."""
        self.tasks[task] = self.tasks.get(task, TaskTotals()) + totals

    def merge(self, other: RunTotals) -> None:
        """Pools another part of the same run, such as another rank's, into this one."""
        for task, totals in other.tasks.items():
            self.add(task, totals)

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
            ValueError: the data were written in another version's form.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"early-exit totals of schema {data.get('schema')!r}, not {SCHEMA}")
        return cls({name: TaskTotals.from_json(task) for name, task in data["tasks"].items()})


def summarise(requests: Sequence[Request]) -> DocumentSummary:
    """One document's values from all its requests and repeats."""
    totals = pool([requests])
    return DocumentSummary(
        layers_used=totals.layers_used,
        flops_saved=totals.bill.flops_saved if totals.tokens else None,
        flops_saved_total=totals.bill.flops_saved_total if totals.tokens else None,
        agreement=totals.agreement if totals.compared == totals.tokens else None,
        consistency=consistency(requests),
        agreement_noise=totals.noise.rate,
    )


def pool(documents: Sequence[Sequence[Request]]) -> TaskTotals:
    """Token-pooled totals of documents, each given as its requests."""
    records = [record for requests in documents for record in _records(requests)]
    traces = [trace for record in records for trace in record.traces]
    compared = [trace for trace in traces if trace.full_depth is not None]
    return TaskTotals(
        documents=len(documents),
        answers=len(records),
        tokens=sum(map(len, traces)),
        prompt_tokens=sum(trace.prompt_tokens for trace in traces),
        depths=Counter(layers for trace in traces for layers in trace.layers_used),
        compared=sum(map(len, compared)),
        agreeing=sum(trace.agreeing or 0 for trace in compared),
        bill=sum((record.bill for record in records), Bill()),
        noise=reduce(Noise.pooled, (trace.noise for trace in traces), Noise()),
    )


def consistency(requests: Sequence[Request]) -> float | None:
    """Share of repeats in which every answer of the document is full depth's own.

    A measure of this package. CALM (arXiv 2207.07061) also calls likeness to the full model
    consistency, but means a bound on a chosen dissimilarity of texts, or a token that is the
    last layer's; here the whole answer must be the same.

    A generation is its text; several scored continuations are options, and the answer is the one of
    highest log-likelihood; a single one is its ``is_greedy``. Rolling likelihoods answer nothing.

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


def ledger(bill: Bill) -> dict[str, Any]:
    """A bill item by item, in FLOPs and as shares.

    Shares of answer items are of the same tokens at full depth, so that they sum to
    ``1 - flops_saved``; the prompt's share is of prompt and answers at full depth.
    """
    flops = {f.name: getattr(bill, f.name) for f in fields(Bill)}
    items = [name for name in flops if name not in ("prompt", "full_depth")]
    whole = bill.prompt + bill.full_depth
    shares = {name: flops[name] / bill.full_depth for name in items} if bill.full_depth else {}
    return {
        "flops": {**flops, "spent": bill.spent},
        "share_of_full_depth": shares,
        "prompt_share_of_total": bill.prompt / whole if whole else None,
    }


def _records(requests: Sequence[Request]) -> Iterator[ExitRecord]:
    return (answer.record for request in requests for answer in request.answers)


def _same_text(answer: Answer) -> bool:
    return str(answer.response) == answer.record.reference


def _same_choice(answers: Sequence[Answer]) -> bool:
    pairs = [(a.response, cast("tuple[float, bool]", a.record.reference)) for a in answers]
    if len(pairs) < 2:
        return all(bool(ours[1]) == bool(full[1]) for ours, full in pairs)
    ours_best = max(range(len(pairs)), key=lambda i: pairs[i][0][0])
    full_best = max(range(len(pairs)), key=lambda i: pairs[i][1][0])
    return ours_best == full_best
