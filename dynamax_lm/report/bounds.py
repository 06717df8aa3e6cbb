"""Bounds of a metric's values for one document, by the metric's definition.

Intervals and verdicts need bounds that hold for all possible values: the observed values of a run
give none. A metric that is not in the table has no bounds.
"""

from __future__ import annotations

from dynamax_lm.common.intervals import SHARE, Bounds

_SHARES = frozenset(
    {"agreement", "consistency", "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all"}
    | {"exact_match", "em", "f1", "contains", "mc1", "mc2"}
)
"""Accuracies, matches and F1 as lm-eval's tasks log them for a document."""

_PERCENT = Bounds(0.0, 100.0)
_BY_SUFFIX = {"_acc": SHARE, "_max": _PERCENT, "_diff": _PERCENT.of_gaps}
_BLEU_AND_ROUGE = ("bleu", "rouge1", "rouge2", "rougeL")
"""TruthfulQA's scores of generated answers: sacrebleu's and rouge-score's, in percent."""

_OF_TEXT = {name + suffix: b for name in _BLEU_AND_ROUGE for suffix, b in _BY_SUFFIX.items()}


def bounds_of(metric: str) -> Bounds | None:
    """The bounds of one document's value, or ``None`` for a metric without an entry."""
    return SHARE if metric in _SHARES else _OF_TEXT.get(metric)
