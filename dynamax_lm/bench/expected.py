"""About how long the benchmark's parts will take, from a short trial of both implementations.

A part is a number of decoding steps and prompt tokens of each. Whole runs of the embedded model are
counted in passes over a prompt of that model, whose numbers were measured (``_PASSES``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dynamax_lm.bench.continuous import CHECKS, steps_of
from dynamax_lm.bench.decode import ours, theirs
from dynamax_lm.bench.exits import steps_with_state
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

_BOTH_TASKS = 1.1
"""What the samples of CoQA and TriviaQA take together, in runs of 8 documents of the first."""

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


@dataclass(frozen=True)
class Work:
    """What a command measures, and the seconds of its units.

    Attributes:
        subject: the model.
        pace: its seconds of a step and of a token.
        batches: rows of the ``decode`` measurements.
        one_pass: seconds of a pass over the trial's prompt by the embedded model.
    """

    subject: Subject
    pace: Pace
    batches: Sequence[int]
    one_pass: float

    @property
    def rounds(self) -> int:
        """Runs of each measurement, with one before the first that counts."""
        return 1 + self.subject.rounds

    @property
    def whole_rounds(self) -> int:
        """The same of whole runs, which are half as many."""
        return 1 + max(1, self.subject.rounds // 2)

    @property
    def most(self) -> int:
        """The largest batch."""
        return max(self.pace.step)

    def forward(self, rows: int, tokens: int) -> float:
        """Transformers' pass; its torch scan pads every row to a whole number of chunks."""
        of_scan = not self.subject.attention and self.subject.stack.device.type == "cpu"
        padded = _PROMPT if of_scan else 1
        return rows * -(-tokens // padded) * padded * self.pace.their_token

    def stories(self) -> float:
        """Our run of 8 documents."""
        return _STORIES * self.pace.token + _ANSWER * self.pace.step[self.most]

    def their_stories(self) -> float:
        """Transformers' run of 8 documents."""
        return _STORIES * self.pace.their_token + _ANSWER * self.pace.their_step[self.most]


def decode_seconds(work: Work) -> float:
    """Of steps at every batch size, ours and transformers'."""
    steps, pace = work.subject.steps + 4, work.pace
    return work.rounds * sum(
        (steps + 2) * (pace.step[rows] + pace.their_step[rows])
        + 2 * (rows * 32 * pace.token + work.forward(rows, 32))
        for rows in work.batches
    )


def exits_seconds(work: Work) -> float:
    """Of ten runs of single rows, and their prompts."""
    half = 2 * (steps_with_state(work.subject) + 4)
    steps = half + 3 * (work.subject.steps + 4)
    return work.rounds * (0.8 * steps * work.pace.step[1] + 20 * 32 * work.pace.token)


def continuous_seconds(work: Work) -> float:
    """Of exits spread over the layers, for each kind of check."""
    steps, most = 2 + steps_of(work.subject), work.most
    each = 2 * steps * work.pace.step[most] * 8 / most
    return len(CHECKS) * work.rounds * 4 * (1024 * work.pace.token + each)


def scoring_seconds(work: Work) -> float:
    """Of the options of a multiple choice."""
    return work.rounds * (80 if work.subject.quick else 830) * work.pace.token


def prompts_seconds(work: Work) -> float:
    """Of one long prompt and of several short ones."""
    long = 256 if work.subject.quick else 1024
    theirs_all = work.forward(1, long) + 2 * work.forward(8, 64)
    return work.rounds * ((long + 1024) * work.pace.token + theirs_all)


def scan_seconds(work: Work) -> float:
    """Of one layer's scan; attention has none."""
    if work.subject.attention:
        return 0.0
    return work.rounds * (work.forward(1, 1024) + work.forward(8, 64)) / work.subject.layers / 2


def context_seconds(work: Work) -> float:
    """Of steps after contexts of several lengths."""
    own, token = work.pace.step[1], work.pace.token
    if work.subject.quick:
        return 640 * token + work.rounds * 2 * 4 * own
    return 1.5 * 5248 * token + (1 + max(15, work.subject.rounds)) * 3 * 12 * own


def documents_seconds(work: Work) -> float:
    """Of whole runs of the embedded model, and of the measured one on 8 documents of two tasks."""
    passes, _ = _PASSES[work.subject.attention]
    if work.subject.quick:
        return _START + work.whole_rounds * 0.1 * passes * work.one_pass
    stories = 3 * _BOTH_TASKS * work.stories()
    return _START + work.whole_rounds * (passes * work.one_pass + stories)


def runs_seconds(work: Work) -> float:
    """Of whole runs of the embedded model, and of the measured one on 8 documents."""
    _, passes = _PASSES[work.subject.attention]
    if work.subject.quick:
        return work.whole_rounds * 0.1 * passes * work.one_pass
    stories = 3 * work.stories() + work.their_stories()
    return work.whole_rounds * (passes * work.one_pass + stories)


def memory_seconds(work: Work) -> float:
    """Of three runs of 8 documents, each in a process of its own."""
    return 3 * _START + 2 * work.stories() + work.their_stories()


def embedded_pass(subject: Subject) -> float:
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
