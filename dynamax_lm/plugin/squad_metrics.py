"""Exact match and F1 of short answers, by SQuAD's definitions.

Owns the functions that stock tasks import under this name. Source: SQuAD (arXiv 1606.05250,
section 6.1, "Exact match" and "(Macro-averaged) F1 score") and SQuAD 2.0 (arXiv 1806.03822) for
unanswerable questions. It does not know lm-eval.
"""

from __future__ import annotations

import re
import string
from collections import Counter

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
