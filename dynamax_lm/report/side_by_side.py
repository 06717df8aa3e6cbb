"""The answers of several runs to the same documents, and the words in which each two differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any, NamedTuple

from dynamax_lm.common.validation import is_finite
from dynamax_lm.report.cells import numbers_of
from dynamax_lm.report.labels import told_apart
from dynamax_lm.report.load import Library
from dynamax_lm.report.rows import Row, first_filter
from dynamax_lm.report.runs import Sample
from dynamax_lm.report.tokens import gold_of, prompt_end

MOST_RUNS = 12
MOST_DOCUMENTS = 200
MOST_MATCHES = 6000
"""Pairs of answers that a page compares, over all documents."""
MOST_WORDS = 400
"""Of an answer; what follows is not shown."""

_WORD = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")


class SideRun(NamedTuple):
    """One run of a page.

    Attributes:
        setting: its name, without what all runs share.
        numbers: its metric, saving and agreement, in words.
        layers: L, where known.
        tokens: its token page, relative to the report; empty for none.
        full: whether every token has full depth.
        exits: whether each token has a depth of its own.
    """

    setting: str
    numbers: str
    layers: int | None
    tokens: str
    full: bool
    exits: bool


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The answers of one comparison group.

    Attributes:
        task: the task.
        checkpoint: the weights' name.
        metric: the task's metric whose values are shown.
        common: what all settings share.
        scored: whether an answer is the option of the highest log-likelihood.
        rows: of the runs, in order.
        runs: at least two, full depth first.
        documents: embedded JSON: for each document ``id``, ``prompt`` (its end), ``omitted``
            (characters of the prompt before that), ``gold``, ``texts`` (distinct answers, as lists
            of words), ``cut`` (the number of further words of each text), ``answers`` (for each run
            the number of its text), ``facts`` (for each run its layers used, agreement and metric,
            or null) and ``pairs``: by ``"i,j"`` the differing ranges of words in text i and in j.
        further_runs: number of runs left out.
        further_documents: number of documents left out.
    """

    task: str
    checkpoint: str
    metric: str
    common: str
    scored: bool
    rows: list[Row]
    runs: list[SideRun]
    documents: list[dict[str, Any]]
    further_runs: int
    further_documents: int


def side_by_side(
    library: Library, group: Sequence[Row], tokens: Mapping[tuple[str, str], str]
) -> SideBySide | None:
    """The answers of a comparison group, or ``None`` where fewer than two runs logged any.

    Only the first of a document's repeats is compared.

    Args:
        library: of the samples.
        group: rows of one task, metric and conditions.
        tokens: the token page of a results file's task, relative to the report.
    """
    known = [(row, found) for row in group if (found := _answered(library, row))]
    known.sort(key=lambda one: one[0].kind not in {"full", "plain"})  # stable: by saving
    kept = known[:MOST_RUNS]
    shared = sorted(set.intersection(*(set(found) for _, found in kept))) if kept else []
    if len(kept) < 2 or not shared:
        return None
    rows = [row for row, _ in kept]
    shown = shared[: _documents_shown(len(rows))]
    common, names = told_apart([row.setting for row in rows])
    first = rows[0]
    return SideBySide(
        task=first.task,
        checkpoint=first.checkpoint,
        metric=first.key.metric,
        common=common,
        scored=any(any(one.sample.continuations) for one in kept[0][1].values()),
        rows=rows,
        runs=[
            SideRun(
                name,
                numbers_of(row),
                row.run.layers,
                tokens.get((str(row.run.path), row.task), ""),
                row.kind in {"full", "plain"},
                row.kind == "dynamic",
            )
            for row, name in zip(rows, names, strict=True)
        ],
        documents=[_document([found[doc_id] for _, found in kept]) for doc_id in shown],
        further_runs=len(known) - len(kept),
        further_documents=len(shared) - len(shown),
    )


def words_of(text: str) -> list[str]:
    """The text in words and signs, each with the space before it; joined they are the text."""
    return _WORD.findall(text)


def differing(one: Sequence[str], other: Sequence[str]) -> list[list[list[int]]]:
    """The ranges of words, end excluded, in which two texts differ: of the first, of the second."""
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    changed = [block for block in blocks if block[0] != "equal"]
    return [
        [[a, b] for _, a, b, _, _ in changed if b > a],
        [[a, b] for _, _, _, a, b in changed if b > a],
    ]


class _Answer(NamedTuple):
    """One run's answer to one document: its text, sample, and depth, agreement and metric."""

    text: str
    sample: Sample
    facts: list[float | None]


def _answered(library: Library, row: Row) -> dict[int, _Answer]:
    """A row's answers by document; none for a group, or where no samples were logged."""
    if row.run.is_group(row.task):
        return {}
    logged = library.samples(row.run, row.task) or []
    ours = first_filter(row.run, row.task)
    added = {sample.doc_id: sample for sample in logged if sample.filter == ours}
    found = {}
    for sample in (sample for sample in logged if sample.filter == row.key.filter):
        text = _text_of(sample)
        if text is not None:
            depth = added.get(sample.doc_id, sample)
            facts = [depth.number("layers_used"), depth.number("agreement")]
            found[sample.doc_id] = _Answer(text, sample, [*facts, sample.number(row.key.metric)])
    return found


def _text_of(sample: Sample) -> str | None:
    """The generated text, or the option of the highest log-likelihood; ``None`` for neither."""
    first = [responses[0] for responses in sample.responses if responses]
    if len(first) == 1 and isinstance(first[0], str):
        return first[0]
    options = [text for text in sample.continuations if text is not None]
    scores = [_number(one) for one in first]
    if len(options) < 2 or len(options) != len(scores) or None in scores:
        return None
    return max(zip(scores, options, strict=True), key=lambda one: one[0] or 0.0)[1]


def _number(response: Any) -> float | None:
    """The log-likelihood of a scored option, which lm-eval writes as text."""
    try:
        value = float(response[0])
    except (TypeError, ValueError, IndexError, KeyError):
        return None
    return value if is_finite(value) else None


def _documents_shown(runs: int) -> int:
    pairs = runs * (runs - 1) // 2
    return min(MOST_DOCUMENTS, MOST_MATCHES // pairs)


def _document(answers: Sequence[_Answer]) -> dict[str, Any]:
    sample = answers[0].sample
    texts = list(dict.fromkeys(one.text for one in answers))
    words = [words_of(text) for text in texts]
    kept = [some[:MOST_WORDS] for some in words]
    end, omitted = prompt_end(sample)
    return {
        "id": sample.doc_id,
        "prompt": end,
        "omitted": omitted,
        "gold": gold_of(sample),
        "texts": kept,
        "cut": [len(some) - len(short) for some, short in zip(words, kept, strict=True)],
        "answers": [texts.index(one.text) for one in answers],
        "facts": [
            [None if one is None else round(one, 4) for one in answer.facts] for answer in answers
        ],
        "pairs": {
            f"{i},{j}": differing(kept[i], kept[j]) for i, j in combinations(range(len(kept)), 2)
        },
    }
