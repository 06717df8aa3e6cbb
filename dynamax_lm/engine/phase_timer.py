"""Seconds of a run by part: prompts, answers, and the full-depth reference.

Times depend on the machine and its load; only ratios within a run are comparable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

Phase = Literal["prompt", "answer", "reference"]


@dataclass
class PhaseTimer:
    """Seconds spent in each part of a run.

    Attributes:
        prompt: prefilling prompts, for the answers and the reference together.
        answer: generating or scoring with exits.
        reference: computing the full-depth model's answers.
    """

    prompt: float = 0.0
    answer: float = 0.0
    reference: float = 0.0

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Add the seconds of the block to ``phase``; synchronises with a GPU at both ends."""
        finish_queued_work()
        start = time.perf_counter()
        try:
            yield
        finally:
            finish_queued_work()
            setattr(self, phase, getattr(self, phase) + time.perf_counter() - start)


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of one call; synchronises with a GPU at both ends."""
    finish_queued_work()
    start = time.perf_counter()
    run()
    finish_queued_work()
    return time.perf_counter() - start


def finish_queued_work() -> None:
    """Synchronise with a GPU, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
