"""The part of a study's results file on its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.criteria.choice import Weights
from benchmarks.criteria.column import Column
from benchmarks.criteria.kinds import kind_of
from benchmarks.criteria.states import States


def told_of(
    columns: Sequence[Column], test: States, weights: Weights, against: Sequence[str]
) -> dict[str, Any]:
    """The columns as JSON values.

    Args:
        columns: of the same test documents.
        test: their states.
        weights: of the documents in each draw.
        against: names of the rules that the others are paired with.
    """
    return {
        "columns": [one.translators for one in columns],
        "exit_agreement": {one.translators: list(one.exit_agreement) for one in columns},
        "lines": [plain(line) for one in columns for line in one.lines(test.layers, weights)],
        "pairs": [plain(pair) for one in columns for pair in one.pairs(against, weights)],
        "pairs_of_kinds": [
            plain(pair)
            for one in columns
            for pair in one.pairs_of_kinds(list(dict.fromkeys(map(kind_of, against))), weights)
        ],
        "curves": {
            one.translators: {rule.name: plain(rule.curve()) for rule in one.contenders}
            for one in columns
        },
        "statics": {
            one.translators: [
                {"layers": layers, "saved": float(saved), "agreement": float(agreement)}
                for layers, saved, agreement in zip(
                    test.layers,
                    one.statics.saved.mean(1),
                    one.statics.agreement.mean(1),
                    strict=True,
                )
            ]
            for one in columns
        },
        "classifier_flops": {
            rule.name: rule.heads.classifier_flops(test.exits[0])
            for rule in columns[-1].contenders
            if rule.confidence == "head" and rule.heads is not None
        },
    }


def distinct_answers(states: States) -> int:
    """How many different texts the documents have, token by token."""
    answers = zip(states.answers(), states.text.tolist(), strict=True)
    return len({tuple(answer[:count]) for answer, count in answers})


def plain(value: Any) -> Any:
    """Named tuples as objects, for JSON."""
    if hasattr(value, "_asdict"):
        return {name: plain(one) for name, one in value._asdict().items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value
