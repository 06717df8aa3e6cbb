"""Tokens and log-probabilities taken from the logits of a pass, at the exit of each token.

Glossary: N tokens of the pass, K target tokens at each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dynamax_lm.core.exit_check import LogitsSink


@dataclass(frozen=True, slots=True)
class Reading:
    """Emitted tokens, and log-probabilities of target tokens.

    Attributes:
        log_probabilities: (N, K) of the target tokens, natural logarithm.
        emitted: (N,) token ids.
    """

    log_probabilities: Tensor
    emitted: Tensor

    def split(self, parts: int) -> list[Reading]:
        """The reading in equal parts, along N."""
        both = zip(self.log_probabilities.chunk(parts), self.emitted.chunk(parts), strict=True)
        return [Reading(scores, emitted) for scores, emitted in both]


class Reader(LogitsSink, Protocol):
    """A sink of logits that gives a reading after the pass."""

    def read(self) -> Reading:
        """The reading of all tokens emitted."""
        ...
