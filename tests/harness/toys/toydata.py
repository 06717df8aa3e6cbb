"""Toy documents, and scoring functions with the habits of real tasks."""

from __future__ import annotations

from typing import Any

import datasets

QUESTIONS = 7


def questions(**_: Any) -> dict[str, datasets.Dataset]:
    """Sums; an odd number of them, so that two ranks get unequal shares."""
    return {"test": datasets.Dataset.from_list([_question(i) for i in range(QUESTIONS)])}


def few_questions(**_: Any) -> dict[str, datasets.Dataset]:
    """Other sums, fewer."""
    return {"test": datasets.Dataset.from_list([_question(i + 20) for i in range(4)])}


def _question(i: int) -> dict[str, Any]:
    total = 2 * i + 3
    return {
        "question": f"{i} plus {i + 3}",
        "answer": str(total),
        "choices": [str(total + d) for d in (-1, 0, 2)],
        "gold": 1,
        "text": f"The sum of {i} and {i + 3} is {total}. " * 3,
    }


def mutating_scores(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Right only if nobody scored this very document before."""
    gold = doc["choices"].pop(doc["gold"])
    return {"exact_match": float(len(doc["choices"]) == 2 and str(results[0]).strip() == gold)}


def scores_that_fail_on_the_reference(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Understands the exits' own type only."""
    if type(results[0]) is str:
        raise TypeError("plain text\nis beyond me")
    return {"exact_match": 1.0}


def must_not_run_twice(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Stands for scoring that executes the answer."""
    if type(results[0]) is str:
        raise AssertionError("code of the reference was executed")
    return {"passed": 1.0}


def partial_scores(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Scores the first document only."""
    return {"exact_match": 1.0} if doc["answer"] == "3" else {"other": 0.5}


def uneven_scores(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Says more of the first document's reference than of any other."""
    extra = type(results[0]) is str and doc["answer"] == "3"
    return {"exact_match": 1.0, **({"extra": 1.0} if extra else {})}
