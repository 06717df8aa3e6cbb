"""Prefill and scoring benchmarks against transformers' forward."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.subject import Subject, token_ids
from dynamax_lm.bench.timing import alternate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.score import ScoreRequest, score


def prompts(subject: Subject) -> Iterator[Row]:
    """Prefill of a long prompt and of a batch of short ones; scoring of the latter."""
    long = 256 if subject.quick else 1024
    for batch, tokens, goal in [(1, long, 2.0), (8, 64, 5.0)]:
        rows = subject.prompts(batch, tokens + 1)
        ids = token_ids([row[:-1] for row in rows], subject.stack.device)

        def forward(ids: torch.Tensor = ids) -> object:
            return subject.model(ids, use_cache=True, logits_to_keep=1)

        found = alternate(
            {"ours": partial(prefill, subject.stack, rows), "transformers": forward},
            subject.rounds,
        )
        yield Row(
            "Prompts",
            subject.name,
            f"prefill {batch} x {tokens}",
            "transformers' forward / ours",
            found["transformers"] / found["ours"],
            1.0 if subject.attention else goal,
            seconds=found,
        )
    batch, tokens = 8, 64
    rows = subject.prompts(batch, tokens)
    ids = token_ids(rows, subject.stack.device)
    requests = [ScoreRequest(row[:32], row[32:]) for row in rows]

    def whole() -> object:
        return subject.model(ids, use_cache=False).logits.float().log_softmax(-1)

    found = alternate({"ours": lambda: score(subject.stack, requests), "hf": whole}, subject.rounds)
    yield Row(
        "Prompts",
        subject.name,
        f"score {batch} x (32 + 32)",
        "one transformers forward with log-softmax / ours",
        found["hf"] / found["ours"],
        0.9 if subject.attention else 5.0,
        seconds=found,
    )
