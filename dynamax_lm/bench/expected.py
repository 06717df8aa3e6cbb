"""About how long the benchmark's parts will take, from a short trial of both implementations.

A part is a number of decoding steps and prompt tokens of each. Whole runs of the embedded model are
counted in passes over a prompt of that model, whose numbers were measured (``_PASSES``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dynamax_lm.bench.decode import ours, theirs
from dynamax_lm.bench.subject import Subject, token_ids, wrap
from dynamax_lm.bench.timing import seconds
from dynamax_lm.engine.prefill import prefill

_PROMPT, _STEPS = 256, 4
"""Of the trial: tokens of its prompt (one chunk of transformers' scan), and decoding steps."""

_PASSES = {True: (1600, 660), False: (1400, 510)}
"""Passes over the trial's prompt (ours and transformers' together) in a round of ``documents`` and
of the embedded model's ``runs``, for attention and Mamba-2, on an AMD EPYC with one thread."""

_STORIES, _ANSWER = 10_500, 32
"""Tokens of the prompts of 8 documents in ``runs`` and ``memory``, and steps after them."""

_START = 12.0
"""Seconds of an evaluation's start in a process of its own, and of loading for ``documents``."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a decoding step and of a prompt's token, ours and transformers'.

    Attributes:
        step: ours, by rows.
        their_step: transformers', by rows.
        token: ours, of a prompt.
        their_token: transformers', of a prompt.
    """

    step: dict[int, float]
    their_step: dict[int, float]
    token: float
    their_token: float

    @classmethod
    def of(cls, subject: Subject, batches: Sequence[int]) -> Pace:
        """Measured, each once, after a first pass over a prompt."""
        row = subject.prompts(1, _PROMPT + 1)
        ids = token_ids([row[0][:-1]], subject.stack.device)
        own = _again(lambda: prefill(subject.stack, row))
        other = _again(lambda: subject.model(ids, use_cache=True, logits_to_keep=1))
        mine: dict[int, float] = {}
        others: dict[int, float] = {}
        for batch in {1, *batches}:
            prompts = subject.prompts(batch, 8)
            for make, by_rows in ((ours, mine), (theirs, others)):
                with torch.inference_mode():
                    first = seconds(make(subject, prompts, 2))
                    both = seconds(make(subject, prompts, 2 + _STEPS))
                by_rows[batch] = max(0.0, both - first) / _STEPS
        return cls(mine, others, own / _PROMPT, other / _PROMPT)


def expected_seconds(
    subject: Subject, parts: Sequence[str], batches: Sequence[int]
) -> dict[str, float]:
    """Seconds of each part.

    Args:
        subject: the model.
        parts: names of the command's parts.
        batches: rows of the ``decode`` measurements.
    """
    pace = Pace.of(subject, batches)
    whole = {"documents", "runs"} & set(parts)
    one_pass = _embedded_pass(subject) if whole else 0.0
    return {part: part_seconds(part, subject, pace, batches, one_pass) for part in parts}


def part_seconds(
    part: str, subject: Subject, pace: Pace, batches: Sequence[int], one_pass: float
) -> float:
    """Seconds of one part, given those of its units."""
    rounds, steps, most = 1 + subject.rounds, subject.steps + 4, max(pace.step)
    own, token = pace.step[1], pace.token
    padded = _PROMPT if not subject.attention and subject.stack.device.type == "cpu" else 1

    def forward(rows: int, tokens: int) -> float:
        """Transformers', whose torch scan pads every row to a whole number of chunks."""
        return rows * -(-tokens // padded) * padded * pace.their_token

    if part == "decode":
        return rounds * sum(
            (steps + 2) * (pace.step[rows] + pace.their_step[rows])
            + 2 * (rows * 32 * token + forward(rows, 32))
            for rows in batches
        )
    if part == "exits":
        return rounds * (4 * steps * own + 20 * 32 * token)
    if part == "continuous":
        from dynamax_lm.bench.continuous import steps_of

        return (
            rounds * 4 * (1024 * token + 2 * (2 + steps_of(subject)) * pace.step[most] * 8 / most)
        )
    if part == "scoring":
        return rounds * (80 if subject.quick else 830) * token
    if part == "prompts":
        long = 256 if subject.quick else 1024
        theirs_all = forward(1, long) + 2 * forward(8, 64)
        return rounds * ((long + 1024) * token + theirs_all)
    if part == "scan":
        mine = 0.0 if subject.attention else (forward(1, 1024) + forward(8, 64)) / subject.layers
        return rounds * mine / 2
    if part == "context":
        if subject.quick:
            return 640 * token + rounds * 2 * 4 * own
        return 1.5 * 5248 * token + (1 + max(15, subject.rounds)) * 3 * 12 * own
    again = 1 + max(1, subject.rounds // 2)
    if part == "documents":
        passes, _ = _PASSES[subject.attention]
        return _START + again * passes * one_pass * (0.1 if subject.quick else 1.0)
    stories = _STORIES * token + _ANSWER * pace.step[most]
    their_stories = _STORIES * pace.their_token + _ANSWER * pace.their_step[most]
    if part == "runs":
        _, passes = _PASSES[subject.attention]
        if subject.quick:
            return again * 0.1 * passes * one_pass
        return again * (passes * one_pass + 3 * stories + their_stories)
    return 3 * _START + 2 * stories + their_stories  # memory


def _embedded_pass(subject: Subject) -> float:
    """Seconds of a pass over the trial's prompt by the embedded model, ours and transformers'."""
    from dynamax_lm.bench.runs import embedded
    from dynamax_lm.decoders.pretrained import load_pretrained

    named: dict[str, Any] = {"pretrained": embedded(subject), "dtype": "float32"}
    device = str(subject.stack.device)
    kind = "dynamax-mistral" if subject.attention else "dynamax-mamba"
    model = load_pretrained(kind, named, device, tokenizer=False).model
    tiny = wrap(kind, model.eval(), rounds=1, quick=True, seed=subject.seed)
    pace = Pace.of(tiny, ())
    return (pace.token + pace.their_token) * _PROMPT


def _again(run: Any) -> float:
    """Seconds of a second call."""
    with torch.inference_mode():
        run()
        return seconds(run)
