"""The protocol of runners: the engine's ``score`` and ``generate``, or a tool's wrapper of them.

A tool that runs the same requests several times, or that inspects each batch, wraps the two
functions and passes the wrapper to the model for the duration of a block
(``DynamaxLM.answered_by``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.head_session import TrainedHeads
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoredAnswer, ScoreRequest, score
from dynamax_lm.engine.sources import Computed
from dynamax_lm.engine.stateful_stack import StatefulStack


class Runner(Protocol):
    """Answers a batch of requests; arguments are those of the engine's functions.

    Attributes:
        continuous: whether ``generate`` may be given all requests at once.
    """

    continuous: ClassVar[bool]

    def score(
        self,
        stack: StatefulStack,
        requests: Sequence[ScoreRequest],
        *,
        policy: ExitPolicy,
        skipped_state: str,
        reference: bool,
        softmax_dtype: torch.dtype,
        heads: TrainedHeads | None,
        timer: PhaseTimer | None,
        sources: Computed | None,
    ) -> list[ScoredAnswer]:
        """See ``engine.score.score``; successive batches of a call share ``sources``."""
        ...

    def generate(
        self,
        stack: StatefulStack,
        requests: Sequence[GenerateRequest],
        *,
        policy: ExitPolicy,
        skipped_state: str,
        reference: bool,
        heads: TrainedHeads | None,
        timer: PhaseTimer | None,
        draft_length: int | None,
        **continuous: Any,
    ) -> list[GeneratedAnswer]:
        """See ``engine.generate.generate``.

        ``flight`` and ``on_answers`` are given to a ``continuous`` runner alone.
        """
        ...


class EngineRunner:
    """The engine's functions, unchanged."""

    continuous: ClassVar[bool] = True

    def score(
        self, stack: StatefulStack, requests: Sequence[ScoreRequest], **options: Any
    ) -> list[ScoredAnswer]:
        """See ``engine.score.score``."""
        return score(stack, requests, **options)

    def generate(
        self, stack: StatefulStack, requests: Sequence[GenerateRequest], **options: Any
    ) -> list[GeneratedAnswer]:
        """See ``engine.generate.generate``."""
        return generate(stack, requests, **options)
