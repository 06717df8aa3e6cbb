"""Exact match and F1 of short answers, by SQuAD's definitions.

These are the functions that stock tasks import under this name. Source: SQuAD (arXiv 1606.05250,
"Exact match" and "(Macro-averaged) F1 score") and SQuAD 2.0 (arXiv 1806.03822) for unanswerable
questions.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = frozenset(string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces."""
    lowered = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def get_tokens(text: str | None) -> list[str]:
    """The words of a normalised answer."""
    return normalize_answer(text).split() if text else []


def compute_exact(a_gold: str, a_pred: str) -> int:
    """1 if both normalise to the same text, else 0."""
    return int(normalize_answer(a_gold) == normalize_answer(a_pred))


def compute_f1(a_gold: str, a_pred: str) -> float:
    """Harmonic mean of precision and recall over words, in [0, 1].

    Where either answer is empty, 1 if both are, else 0 (no-answer questions).
    """
    gold, predicted = get_tokens(a_gold), get_tokens(a_pred)
    if not gold or not predicted:
        return float(gold == predicted)
    shared = (Counter(gold) & Counter(predicted)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def get_raw_scores(
    examples: Iterable[Any], preds: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, float]]:
    """Each question's exact match and F1, the best over its gold answers.

    Args:
        examples: each with ``qas_id`` and ``answers``, a list of ``{"text": ...}``; gold answers
            that normalise to nothing do not count, and without any the right answer is empty.
        preds: answers by question; questions without one are omitted.
    """
    exact: dict[str, int] = {}
    f1: dict[str, float] = {}
    for example in examples:
        if example.qas_id not in preds:
            continue
        answer = preds[example.qas_id]
        gold = [one["text"] for one in example.answers if normalize_answer(one["text"])] or [""]
        exact[example.qas_id] = max(compute_exact(text, answer) for text in gold)
        f1[example.qas_id] = max(compute_f1(text, answer) for text in gold)
    return exact, f1
