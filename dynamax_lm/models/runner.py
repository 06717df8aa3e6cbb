"""Who answers a batch of requests: core's ``score`` and ``generate``, or something that wraps them.

Owns the protocol. A tool that runs the same requests several times, or that looks at what each
batch gave, wraps the two functions and hands the result to the model for as long as it needs it
(``DynamaxLM.answered_by``). It does not know tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from dynamax_lm.core.decode import GenerateRequest
from dynamax_lm.core.generate import GeneratedAnswer, generate
from dynamax_lm.core.head_session import TrainedHeads
from dynamax_lm.core.phase_timer import PhaseTimer
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.score import ScoredAnswer, ScoreRequest, score
from dynamax_lm.core.stack import LayerStack


class Runner(Protocol):
    """Answers a batch of requests; arguments are those of core's functions of the same names."""

    def score(
        self,
        stack: LayerStack,
        requests: Sequence[ScoreRequest],
        *,
        policy: ExitPolicy,
        skipped_state: str,
        reference: bool,
        softmax_dtype: torch.dtype,
        heads: TrainedHeads | None,
        timer: PhaseTimer | None,
    ) -> list[ScoredAnswer]:
        """See ``core.score.score``."""
        ...

    def generate(
        self,
        stack: LayerStack,
        requests: Sequence[GenerateRequest],
        *,
        policy: ExitPolicy,
        skipped_state: str,
        reference: bool,
        heads: TrainedHeads | None,
        timer: PhaseTimer | None,
        draft_length: int | None,
    ) -> list[GeneratedAnswer]:
        """See ``core.generate.generate``."""
        ...


class CoreRunner:
    """Core's functions as they are."""

    score = staticmethod(score)
    generate = staticmethod(generate)
