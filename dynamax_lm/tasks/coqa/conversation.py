"""CoQA's prompts, gold answers and scores, by CoQA's definitions (arXiv 1808.07042, section 5).

The meaning of our CoQA tasks is fixed here: it does not follow later versions of lm-eval's own
task, whose version 3.0 the prompts and scores equal.

A record is a story and a conversation about it. A document is one turn: that numbered ``turn``, or
the last one in a record that has not been divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamax_lm.harness.plugin.squad_metrics import compute_exact, compute_f1

Document = Mapping[str, Any]


def turns(records: Any) -> Any:
    """One document for each turn of each record.

    Args:
        records: a ``datasets.Dataset`` of records.
    """
    return records.map(_divide, batched=True, batch_size=16)


def _divide(records: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Columns of a batch of records to columns of their turns."""
    questions = [one["input_text"] for one in records["questions"]]
    places = [(row, turn) for row, asked in enumerate(questions) for turn in range(len(asked))]
    divided = {name: [column[row] for row, _ in places] for name, column in records.items()}
    return divided | {"turn": [turn for _, turn in places]}


def _turn(document: Document) -> int:
    turn: int = document.get("turn", len(document["questions"]["input_text"]) - 1)
    return turn


def prompt(document: Document) -> str:
    """The story, the turns before with their answers, and the turn's question."""
    last = _turn(document)
    questions = document["questions"]["input_text"][: last + 1]
    answers = document["answers"]["input_text"][:last]
    before = "".join(
        f"Q: {question}\n\nA: {answer}\n\n"
        for question, answer in zip(questions[:-1], answers, strict=True)
    )
    return f"{document['story']}\n\n{before}Q: {questions[-1]}\n\nA:"


def gold_answers(document: Document) -> list[str]:
    """The turn's answer and those of other annotators that differ in more than case."""
    turn = _turn(document)
    others = (document.get("additional_answers") or {}).values()
    given = [document["answers"], *others]
    found: dict[str, str] = {}
    for answers in given:
        answer = answers["input_text"][turn]
        found.setdefault(answer.lower(), answer)
    return list(found.values())


def scores(document: Document, responses: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of the first line of the answer, each in [0, 1].

    With several gold answers, the mean over all ways to leave one of them out of the best score
    over the others, as human performance on CoQA is computed.
    """
    predicted = responses[0].strip().split("\n")[0]
    gold = gold_answers(document)
    exact = [float(compute_exact(one, predicted)) for one in gold]
    overlap = [compute_f1(one, predicted) for one in gold]
    return {"em": _leaving_one_out(exact), "f1": _leaving_one_out(overlap)}


def _leaving_one_out(values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    best = [max([*values[:left], *values[left + 1 :]]) for left in range(len(values))]
    return sum(best) / len(best)
