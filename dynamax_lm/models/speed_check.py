"""Speed of a lossless run: some documents are decoded at full depth as well, and timed.

It records the seconds of both, and whether the answers are equal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dynamax_lm.core.trace import DraftRound
from dynamax_lm.engine.draft_costs import DraftCosts, RoundCounts
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.models.draft_causes import LosslessRun

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings

DOCUMENTS = 16
"""Least number of documents decoded at full depth too, if the run has as many."""


@dataclass
class SpeedCheck:
    """Seconds of the same answers, decoded losslessly and at full depth, in one process.

    Attributes:
        documents: number decoded both ways.
        tokens: number of tokens of their answers.
        differing: documents whose tokens differ: near-ties that round to another token.
        lossless: seconds, without prompts.
        full_depth: seconds, without prompts.
        batches: in which these documents were decoded.
        rounds: of their lossless answers.
    """

    documents: int = 0
    tokens: int = 0
    differing: int = 0
    lossless: float = 0.0
    full_depth: float = 0.0
    batches: int = 0
    rounds: list[DraftRound] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether to decode further documents both ways."""
        return self.documents < DOCUMENTS

    @property
    def speedup(self) -> float | None:
        """Full depth's seconds over the lossless ones; ``None`` before any document."""
        return self.full_depth / self.lossless if self.lossless else None

    def check(
        self,
        stack: StatefulStack,
        requests: Sequence[GenerateRequest],
        answers: Sequence[GeneratedAnswer],
        seconds: float,
    ) -> list[GeneratedAnswer]:
        """Decode ``requests`` at full depth too; their answers are the references.

        Args:
            stack: the decoder.
            requests: a batch.
            answers: lossless ones.
            seconds: of the lossless answers.
        """
        timer = PhaseTimer()
        full = generate(stack, requests, timer=timer)
        self.documents += len(requests)
        self.batches += 1
        self.lossless += seconds
        self.full_depth += timer.answer
        checked: list[GeneratedAnswer] = []
        for ours, theirs in zip(answers, full, strict=True):
            self.tokens += len(ours.trace)
            self.rounds += ours.trace.rounds or ()
            self.differing += ours.trace.tokens != theirs.trace.tokens
            known = theirs.trace.tokens if ours.reference is not None else None
            checked.append(replace(ours, reference=known))
        return checked

    def report(self, costs: DraftCosts, exit_layer: int, n_layers: int) -> None:
        """Log in one line whether the run saved time; as a warning, with the cause, if not.

        Args:
            costs: of a round.
            exit_layer: layers run by a draft.
            n_layers: of the decoder.
        """
        speedup = self.speedup
        if speedup is None:
            return
        counts, rows = RoundCounts.of(self.rounds), self.documents / self.batches
        run = LosslessRun(counts, costs, exit_layer, n_layers, rows, speedup)
        line = "mode=lossless decoded %d documents at %.2f times full depth's speed: %s"
        if speedup < 1:
            _log.warning(line, self.documents, speedup, run.explain())
            return
        numbers = (
            f"{counts.accepted} of {counts.drafted} drafted tokens were accepted, a draft runs "
            f"{exit_layer} of {n_layers} layers; the bound from counts is {run.bound:.2f}"
        )
        _log.info(line, self.documents, speedup, numbers)

    def to_json(self) -> dict[str, Any]:
        """Counts, seconds and their ratio, as JSON values."""
        ratio = self.speedup
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "differing_documents": self.differing,
            "seconds": round(self.lossless, 3),
            "seconds_full_depth": round(self.full_depth, 3),
            "speedup": None if ratio is None else round(ratio, 3),
        }
