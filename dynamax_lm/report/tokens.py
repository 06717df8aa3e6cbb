"""Answers token by token, in the compact JSON format that a token page embeds."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamax_lm.common.token_pieces import Decode, split
from dynamax_lm.common.tracefile import TraceLine, rounds_of
from dynamax_lm.report.load import Library
from dynamax_lm.report.rows import checkpoint_of, first_filter, setting_of
from dynamax_lm.report.runs import Run, Sample
from dynamax_lm.report.tokentext import TokenTexts

_PROMPT_KEPT = 1500
"""Characters of the prompt's end on a page."""
_LISTED = 10_000
"""Characters of a list of right answers that are read as such."""


@dataclass(frozen=True, slots=True)
class TokenPage:
    """One task of one run.

    Attributes:
        task: the task.
        checkpoint: the weights' name.
        setting: every relevant setting, in words.
        layers: L, or the deepest layer seen.
        depths: the layers at which tokens may exit, ascending, L included.
        texts: whether token texts are shown, not ids.
        scored: whether the answers were scored, not generated.
        documents: embedded JSON: for each document ``id``, ``prompt`` (its end), ``omitted``
            (characters of the prompt before that), ``gold`` (the right answer, if known),
            ``values`` and ``answers``; each answer has a ``label`` and ``tokens`` as lists
            ``[text, layers used, confidence or null]``, and two more where the exit disagrees with
            full depth: full depth's text, and that of the exit.
        leaderboard: the page of all runs, relative to this one; empty for none.
        lossless: whether the tokens were drafted and verified.
    """

    task: str
    checkpoint: str
    setting: str
    layers: int
    depths: list[int]
    texts: bool
    scored: bool
    documents: list[dict[str, Any]]
    leaderboard: str = ""
    lossless: bool = False


def token_page(library: Library, run: Run, task: str, texts: TokenTexts) -> TokenPage | None:
    """The page of one task, or ``None`` where the run has no trace of it."""
    lines = library.trace(run, task)
    if not lines:
        return None
    decode = texts.of(run)
    by_document: dict[int, list[TraceLine]] = {}
    for line in lines:
        by_document.setdefault(line.doc_id, []).append(line)
    name = first_filter(run, task)
    logged = library.samples(run, task) or []
    samples = {sample.doc_id: sample for sample in logged if sample.filter == name}
    exits = run.settings.get("exit_layers") or []
    depths = sorted({line.layers_used for line in lines} | {*map(int, exits)})
    return TokenPage(
        task=task,
        checkpoint=checkpoint_of(run),
        setting=setting_of(run),
        layers=run.layers or depths[-1],
        depths=sorted({*depths, run.layers or depths[-1]}),
        texts=decode is not None,
        scored=any(any(sample.continuations) for sample in samples.values()),
        documents=[
            _document(doc_id, rows, samples.get(doc_id), decode)
            for doc_id, rows in sorted(by_document.items())
        ],
        leaderboard="../index.html",
        lossless=run.settings.get("mode") == "lossless",
    )


def prompt_end(sample: Sample | None) -> tuple[str, int]:
    """The end of a document's first prompt, and the number of characters before it."""
    prompt = sample.prompts[0] if sample and sample.prompts else ""
    return prompt[-_PROMPT_KEPT:], max(0, len(prompt) - _PROMPT_KEPT)


def gold_of(sample: Sample | None) -> str:
    """The right answer, or answers, which lm-eval writes as a Python list."""
    text = sample.target if sample else ""
    try:
        answers = literal_eval(text) if text.startswith("[") and len(text) < _LISTED else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    listed = isinstance(answers, list) and all(isinstance(one, str) for one in answers)
    return " | ".join(answers) if listed else text


def answer_of(label: str, lines: Sequence[TraceLine], decode: Decode | None) -> dict[str, Any]:
    """One answer as `TokenPage` embeds it.

    Args:
        label: its name on the page.
        lines: one for each token, in order.
        decode: from ids to text; ``None`` shows the ids.
    """
    return {"label": label, "tokens": _tokens(lines, decode), **_drafts(lines, decode)}


def _document(
    doc_id: int, rows: Sequence[TraceLine], sample: Sample | None, decode: Decode | None
) -> dict[str, Any]:
    answers: dict[tuple[int, int, int], list[TraceLine]] = {}
    for row in rows:
        answers.setdefault((row.request, row.repeat, row.window), []).append(row)
    values = {}
    if sample is not None:
        values = {m: n for m in sample.metrics if (n := sample.number(m)) is not None}
    prompt, omitted = prompt_end(sample)
    return {
        "id": doc_id,
        "prompt": prompt,
        "omitted": omitted,
        "gold": gold_of(sample),
        "values": values,
        "answers": [
            answer_of(
                _label(key, sample, several=len(answers) > 1),
                sorted(lines, key=lambda line: line.position),
                decode,
            )
            for key, lines in sorted(answers.items())
        ],
    }


def _label(key: tuple[int, int, int], sample: Sample | None, *, several: bool) -> str:
    request, repeat, window = key
    scored = sample is not None and any(sample.continuations)
    label = ("option" if scored else "answer") if several else "answer"
    if several:
        label += f" {request + 1}"
    label += f", repeat {repeat + 1}" if repeat else ""
    return label + (f", window {window + 1}" if window else "")


def _tokens(rows: Sequence[TraceLine], decode: Decode | None) -> list[list[Any]]:
    pieces = split([row.token for row in rows], decode)
    return [
        [
            piece,
            row.layers_used,
            None if row.confidence is None else round(row.confidence, 4),
            *_disagreement(row, decode),
        ]
        for piece, row in zip(pieces, rows, strict=True)
    ]


def _drafts(rows: Sequence[TraceLine], decode: Decode | None) -> dict[str, Any]:
    """Of a lossless answer: which tokens were drafted, and what was rejected before a token."""
    rounds = rounds_of(rows)
    if not rounds:
        return {}
    drafted: list[int] = []
    rejected: dict[int, str] = {}
    for one in rounds:
        after = one.start + one.accepted
        drafted += range(one.start, min(after, len(rows)))
        if one.drafted[one.accepted :]:
            rejected[after] = "".join(split(list(one.drafted[one.accepted :]), decode))
    return {"drafted": drafted, "rejected": rejected}


def _disagreement(row: TraceLine, decode: Decode | None) -> list[str]:
    """Full depth's token and the exit's, where they differ."""
    if row.full_depth is None or row.full_depth == row.emitted:
        return []
    return [split([row.full_depth], decode)[0], split([row.emitted], decode)[0]]
