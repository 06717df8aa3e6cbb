"""Recomputation of documents, totals and FLOPs from the token rows of a trace.

Definitions are those of `core.summary`, `core.totals` and `core.ledger`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dynamax_lm.common.tracefile import TraceLine, rounds_of, trace_of
from dynamax_lm.core.drafts import Drafts
from dynamax_lm.core.full_depth import by_definition, prompt_exited
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.texts import Texts
from dynamax_lm.core.totals import NOISE, TaskTotals, TokenTotals
from dynamax_lm.core.trace import FlopsBreakdown, Noise
from dynamax_lm.report.costs import (
    costs_of,
    exit_extras_of,
    measure_of,
    prompt_maps_of,
    skipped_state_of,
)
from dynamax_lm.report.runs import Run


@dataclass(frozen=True)
class DocumentAgain:
    """One document's tokens.

    Attributes:
        lines: in the order of requests, repeats, windows and positions.
        bill: their FLOPs; ``None`` where a trace does not determine them.
        text_bill: the same without the tokens that only make a stop sequence.
    """

    lines: Sequence[TraceLine]
    bill: FlopsBreakdown | None
    text_bill: FlopsBreakdown | None

    @property
    def text(self) -> list[TraceLine]:
        """The tokens of the text."""
        return [line for line in self.lines if line.is_text]

    @property
    def agrees(self) -> bool:
        """Whether every token, the stop sequence included, is full depth's."""
        return all(line.emitted == line.full_depth for line in self.lines)

    @property
    def noise(self) -> Noise:
        """Differences of the reference's pass from tokens known to be full depth's."""
        return Noise.of((line.full_depth, line.reference_pass) for line in self.lines)

    def beside_definition(self, n_layers: int, skipped_state: str) -> int:
        """Number of tokens that are full depth's by definition but have another reference."""
        wrong = 0
        for answer in _answers(self.lines):
            first = answer[0]
            owns = by_definition(
                *([line.layers_used for line in answer], n_layers, skipped_state),
                prompt_exited=prompt_exited(first.prompt_exit, first.prompt_tokens),
                rounds=rounds_of(answer),
            )
            for line, own in zip(answer, owns, strict=True):
                wrong += own and line.full_depth not in (None, line.emitted)
        return wrong

    def values(self) -> dict[str, float]:
        """The per-document keys that a trace determines."""
        text = _totals(self.text, self.text_bill or FlopsBreakdown())
        values = {"layers_used": text.layers_used}
        if text.compared == text.tokens:
            values["agreement"] = text.agreement
        if self.text_bill is not None:
            values["flops_saved"] = text.flops_saved
            values["flops_saved_total"] = text.flops_saved_total
        if self.noise.rate is not None:
            values[NOISE] = self.noise.rate
        if any(line.text_tokens is not None for line in self.lines):
            whole = _totals(self.lines, self.bill or FlopsBreakdown())
            values["layers_used_with_stop"] = whole.layers_used
            values["stop_share"] = 1 - text.tokens / whole.tokens
            if whole.compared == whole.tokens:
                values["agreement_with_stop"] = whole.agreement
            if self.bill is not None:
                values["flops_saved_with_stop"] = whole.flops_saved
        return {name: value for name, value in values.items() if value is not None}

    def greedy(self) -> dict[tuple[int, int], bool]:
        """For each request and repeat, whether every scored token is what the exit emitted."""
        greedy: dict[tuple[int, int], bool] = defaultdict(lambda: True)
        for line in self.lines:
            greedy[line.request, line.repeat] &= line.token == line.emitted
        return dict(greedy)


def ledger_of(run: Run) -> Ledger | None:
    """The run's ledger; ``None`` where a trace does not determine a bill.

    It does not for trained heads or maps whose costs the run did not record. Recomputation of
    pending tokens follows from depths (``core.catchup``).
    """
    settings, costs = run.settings, costs_of(run)
    plain = settings.get("mode") in {"exit", "full", "lossless"}
    extras, measure, state = exit_extras_of(run), measure_of(run), skipped_state_of(run)
    maps = prompt_maps_of(run)
    if costs is None or extras is None or measure is None or state is None or not plain:
        return None
    if maps is None:
        return None
    try:
        return Ledger(
            costs,
            exit_layers=tuple(settings["exit_layers"]),
            confidence=measure,
            skipped_state=state,
            exit_extras=extras,
            prompt_exit=settings.get("prompt_exit"),
            prompt_maps=maps,
            lossless=settings.get("mode") == "lossless",
        )
    except (KeyError, TypeError, ValueError):
        return None


def documents_again(lines: Iterable[TraceLine], ledger: Ledger | None) -> dict[int, DocumentAgain]:
    """Every document of a trace.

    Raises:
        ValueError: the rows of an answer are not numbered 0, 1, 2, …, or have several values of
            ``text_tokens``, or a depth is not an exit.
    """
    by_document: defaultdict[int, list[TraceLine]] = defaultdict(list)
    for line in lines:
        by_document[line.doc_id].append(line)
    documents = {}
    for doc_id, rows in by_document.items():
        rows.sort(key=lambda r: (r.request, r.repeat, r.window, r.position))
        bill = text_bill = FlopsBreakdown() if ledger else None
        for answer in _answers(rows):
            if [line.position for line in answer] != list(range(len(answer))):
                raise ValueError(f"document {doc_id} lacks rows, or has some twice")
            ends = {line.text_tokens for line in answer}
            if len(ends) > 1 or any(not 0 <= (end or 0) <= len(answer) for end in ends):
                raise ValueError(f"document {doc_id} does not state where its text ends")
            if ledger is not None and bill is not None and text_bill is not None:
                trace = trace_of(answer)
                bill += ledger.bill(trace)
                text_bill += ledger.bill(trace.text)
        documents[doc_id] = DocumentAgain(rows, bill, text_bill)
    return documents


def totals_again(
    documents: Mapping[int, DocumentAgain],
    published: TaskTotals,
    answers: int | None,
    texts: Texts | None = None,
) -> TaskTotals:
    """A task's totals; values that a trace does not determine are those of ``published``.

    Args:
        documents: from `documents_again`.
        published: the totals in the results.
        answers: number of responses in the samples, if there are any.
        texts: counts of the generated ones, likewise.
    """
    again = list(documents.values())
    lines = [line for document in again for line in document.lines]
    bill, text_bill = published.with_stop.bill, published.text.bill
    if all(document.bill is not None for document in again):
        bill = sum((document.bill or FlopsBreakdown() for document in again), FlopsBreakdown())
        text_bill = sum(
            (document.text_bill or FlopsBreakdown() for document in again), FlopsBreakdown()
        )
    return TaskTotals(
        documents=len(again),
        answers=published.answers if answers is None else answers,
        generated_tokens=sum(line.text_tokens is not None for line in lines),
        texts=published.texts if texts is None else texts,
        prompt_tokens=sum(
            answer[0].prompt_tokens for document in again for answer in _answers(document.lines)
        ),
        text=_totals([line for line in lines if line.is_text], text_bill),
        with_stop=_totals(lines, bill),
        noise=Noise.of((line.full_depth, line.reference_pass) for line in lines),
        drafts=_drafts(again),
    )


def _drafts(documents: Sequence[DocumentAgain]) -> Drafts:
    answers = [answer for document in documents for answer in _answers(document.lines)]
    lossless = [(answer, rounds) for answer in answers if (rounds := rounds_of(answer))]
    return Drafts.counted((len(answer), rounds) for answer, rounds in lossless)


def _totals(lines: Sequence[TraceLine], bill: FlopsBreakdown) -> TokenTotals:
    compared = [line for line in lines if line.full_depth is not None]
    return TokenTotals(
        tokens=len(lines),
        depths=Counter(line.layers_used for line in lines),
        compared=len(compared),
        agreeing=sum(line.emitted == line.full_depth for line in compared),
        bill=bill,
    )


def _answers(lines: Sequence[TraceLine]) -> Iterator[list[TraceLine]]:
    """Sorted rows, by answer (or window)."""
    groups: dict[tuple[int, int, int], list[TraceLine]] = {}
    for line in lines:
        groups.setdefault((line.request, line.repeat, line.window), []).append(line)
    yield from groups.values()
