"""Totals pooled over tokens, of a document, a task and a run, and their JSON form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dynamax_lm.core.drafts import Drafts
from dynamax_lm.core.texts import Texts
from dynamax_lm.core.trace import AnswerTrace, FlopsBreakdown, Noise

_PROMPT_SAVED = "prompt_saved"
"""The item of a bill that is left out where it is 0: where prompts run all layers."""

NOISE = "agreement_noise"
"""The key of the noise floor; tasks report it where it is not 0."""


SCHEMA = 2
"""Version of the JSON format of `RunTotals`, raised where old readers would misread a value."""


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
            bill=FlopsBreakdown(
                **{
                    f.name: flops.get(f.name, 0) if f.name == _PROMPT_SAVED else flops[f.name]
                    for f in fields(FlopsBreakdown)
                }
            ),
        )


_POOLED = ("texts", "noise", "drafts")
"""Fields of `TaskTotals` that are named tuples, which ``+`` would concatenate."""


@dataclass(frozen=True)
class TaskTotals:
    """Pooled totals of documents; adding two pools them.

    Attributes:
        documents: documents counted.
        answers: responses counted, one per request and repeat.
        prompt_tokens: tokens prefilled.
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
    then = "run it again"
    if found == 1:
        then = f"their numbers count the stop with the answer: {then}"
    elif isinstance(found, int) and found > SCHEMA:
        then = "made by a newer version: update dynamax-lm"
    return f"early-exit totals of schema {found!r}, not {SCHEMA}; {then}"


def ledger(bill: FlopsBreakdown) -> dict[str, Any]:
    """A bill item by item, in FLOPs and as shares.

    Shares of answer items are of the same tokens at full depth, so that they sum to
    ``1 - flops_saved``; the prompt's share is of prompt and answers at full depth.
    """
    flops = {f.name: getattr(bill, f.name) for f in fields(FlopsBreakdown)}
    if not bill.prompt_saved:
        del flops[_PROMPT_SAVED]
    items = [name for name in flops if name not in ("prompt", "full_depth", _PROMPT_SAVED)]
    whole = bill.total_full_depth
    shares = {name: flops[name] / bill.full_depth for name in items} if bill.full_depth else {}
    return {
        "flops": {**flops, "spent": bill.spent},
        "share_of_full_depth": shares,
        "prompt_share_of_total": (bill.prompt + bill.prompt_saved) / whole if whole else None,
    }
