"""Speed of a lossless run: some documents are decoded at full depth as well, and timed.

It records the seconds of both, and whether the answers are equal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamax_lm.core.costs import DecoderCosts, norm_flops, unembed_flops
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.stateful_stack import StatefulStack

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
    """

    documents: int = 0
    tokens: int = 0
    differing: int = 0
    lossless: float = 0.0
    full_depth: float = 0.0

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
        self.lossless += seconds
        self.full_depth += timer.answer
        checked: list[GeneratedAnswer] = []
        for ours, theirs in zip(answers, full, strict=True):
            self.tokens += len(ours.trace)
            self.differing += ours.trace.tokens != theirs.trace.tokens
            known = theirs.trace.tokens if ours.reference is not None else None
            checked.append(replace(ours, reference=known))
        return checked

    def report(
        self, acceptance: float | None, exit_layer: int, costs: DecoderCosts, batch_size: object
    ) -> None:
        """Log in one line whether the run saved time; as a warning, with the causes, if not.

        Args:
            acceptance: accepted share of the drafted tokens; ``None`` if none was drafted.
            exit_layer: layers run by a draft.
            costs: of the decoder.
            batch_size: of the run.
        """
        speedup = self.speedup
        if speedup is None:
            return
        check = (norm_flops(costs) + unembed_flops(costs)) / costs.layers(0, 0, 1)
        _log.log(
            logging.INFO if speedup >= 1 else logging.WARNING,
            "mode=lossless decoded %d documents at %.2f times full depth's speed: %.0f %% of the "
            "drafted tokens were accepted, a draft runs %d of %d layers, a vocabulary check costs "
            "as much as %.1f layers, batch size %s",
            *(self.documents, speedup, 100 * (acceptance or 0.0)),
            *(exit_layer, costs.n_layers, check, batch_size),
        )

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
