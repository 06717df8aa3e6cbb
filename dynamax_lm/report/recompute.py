"""The published numbers again, from the token rows of a trace.

Owns the way back from a trace file to documents, totals and bills, by the same meanings as
`summary` and the same count as `ledger`. It does not know what was published.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dynamax_lm.fulldepth import by_definition
from dynamax_lm.ledger import Ledger
from dynamax_lm.report.costs import costs_of, exit_extras_of
from dynamax_lm.report.runs import Run
from dynamax_lm.summary import NOISE, TaskTotals
from dynamax_lm.trace import Bill, Noise
from dynamax_lm.tracefile import TraceLine

_BILLED_BY_DEPTH = frozenset({"propagate", "copy_kv", "freeze", "recompute"})


@dataclass(frozen=True)
class DocumentAgain:
    """One document's tokens.

    Attributes:
        lines: in the order of requests, repeats, windows and positions.
        bill: their FLOPs; ``None`` where a trace does not determine them.
    """

    lines: Sequence[TraceLine]
    bill: Bill | None

    @property
    def compared(self) -> list[TraceLine]:
        """The tokens that have a full-depth token beside them."""
        return [line for line in self.lines if line.full_depth is not None]

    @property
    def agreeing(self) -> int:
        """How many of those equal it."""
        return sum(line.emitted == line.full_depth for line in self.compared)

    @property
    def noise(self) -> Noise:
        """How often the reference's pass differs where full depth is known without it."""
        return Noise.of((line.full_depth, line.reference_pass) for line in self.lines)

    def beside_definition(self, n_layers: int, skipped_state: str) -> int:
        """How many tokens are full depth's by definition, and yet held against another token."""
        wrong = 0
        for answer in _answers(self.lines):
            owns = by_definition([line.layers_used for line in answer], n_layers, skipped_state)
            for line, own in zip(answer, owns, strict=True):
                wrong += own and line.full_depth not in (None, line.emitted)
        return wrong

    def values(self) -> dict[str, float]:
        """The per-document keys that a trace determines."""
        values = {"layers_used": sum(line.layers_used for line in self.lines) / len(self.lines)}
        if len(self.compared) == len(self.lines):
            values["agreement"] = self.agreeing / len(self.lines)
        if self.noise.rate is not None:
            values[NOISE] = self.noise.rate
        if self.bill is not None:
            values["flops_saved"] = self.bill.flops_saved
            values["flops_saved_total"] = self.bill.flops_saved_total
        return values

    def greedy(self) -> dict[tuple[int, int], bool]:
        """For each request and repeat, whether every scored token is what the exit emitted."""
        greedy: dict[tuple[int, int], bool] = defaultdict(lambda: True)
        for line in self.lines:
            greedy[line.request, line.repeat] &= line.token == line.emitted
        return dict(greedy)


def ledger_of(run: Run) -> Ledger | None:
    """The run's ledger; ``None`` where depths alone do not determine a bill.

    Drafts that are verified cost what a trace does not say, and so do trained heads whose costs the
    run did not write down. Waiting tokens that are recomputed follow from depths (`catchup`).
    """
    settings, costs = run.settings, costs_of(run)
    by_depth = settings.get("skipped_state") in _BILLED_BY_DEPTH
    plain = settings.get("mode") in {"exit", "full"}
    extras = exit_extras_of(run)
    if costs is None or extras is None or not by_depth or not plain:
        return None
    try:
        return Ledger(
            costs,
            exit_layers=tuple(settings["exit_layers"]),
            confidence=settings["confidence"],
            skipped_state=settings["skipped_state"],
            exit_extras=extras,
        )
    except (KeyError, TypeError, ValueError):
        return None


def documents_again(lines: Iterable[TraceLine], ledger: Ledger | None) -> dict[int, DocumentAgain]:
    """Every document of a trace.

    Raises:
        ValueError: the rows of an answer are not numbered 0, 1, 2, …, or a depth is not an exit.
    """
    by_document: defaultdict[int, list[TraceLine]] = defaultdict(list)
    for line in lines:
        by_document[line.doc_id].append(line)
    documents = {}
    for doc_id, rows in by_document.items():
        rows.sort(key=lambda r: (r.request, r.repeat, r.window, r.position))
        bill = Bill() if ledger else None
        for answer in _answers(rows):
            if [line.position for line in answer] != list(range(len(answer))):
                raise ValueError(f"document {doc_id} lacks rows, or has some twice")
            if ledger is not None and bill is not None:
                depths = [line.layers_used for line in answer]
                bill += ledger.answer(answer[0].prompt_tokens, depths)
        documents[doc_id] = DocumentAgain(rows, bill)
    return documents


def totals_again(
    documents: Mapping[int, DocumentAgain], published: TaskTotals, answers: int | None
) -> TaskTotals:
    """A task's totals; what a trace does not determine is taken from ``published``.

    Args:
        documents: as `documents_again` gives them.
        published: the totals in the results.
        answers: responses logged in the samples, where there are samples.
    """
    again = list(documents.values())
    lines = [line for document in again for line in document.lines]
    bills = [document.bill for document in again]
    known = [bill for bill in bills if bill is not None]
    return TaskTotals(
        documents=len(again),
        answers=published.answers if answers is None else answers,
        tokens=len(lines),
        prompt_tokens=sum(
            answer[0].prompt_tokens for document in again for answer in _answers(document.lines)
        ),
        depths=Counter(line.layers_used for line in lines),
        compared=sum(len(document.compared) for document in again),
        agreeing=sum(document.agreeing for document in again),
        bill=sum(known, Bill()) if len(known) == len(bills) else published.bill,
        noise=Noise.of((line.full_depth, line.reference_pass) for line in lines),
    )


def _answers(lines: Sequence[TraceLine]) -> Iterator[list[TraceLine]]:
    """Sorted rows, an answer (or window) at a time."""
    groups: dict[tuple[int, int, int], list[TraceLine]] = {}
    for line in lines:
        groups.setdefault((line.request, line.repeat, line.window), []).append(line)
    yield from groups.values()
