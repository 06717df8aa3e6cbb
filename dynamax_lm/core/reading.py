"""What is read of a pass where its tokens exit.

Owns the form of a reading, and the protocol of whoever makes one. It does not know why a token
exited.

Glossary: N tokens of the pass, K tokens whose probability is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dynamax_lm.core.loop import LogitsSink


@dataclass(frozen=True, slots=True)
class Reading:
    """Tokens and log-probabilities.

    Attributes:
        log_probabilities: (N, K) of the tokens asked about, natural logarithm.
        emitted: (N,) token ids.
    """

    log_probabilities: Tensor
    emitted: Tensor

    def split(self, parts: int) -> list[Reading]:
        """The same, cut into equal parts."""
        both = zip(self.log_probabilities.chunk(parts), self.emitted.chunk(parts), strict=True)
        return [Reading(scores, emitted) for scores, emitted in both]


class Reader(LogitsSink, Protocol):
    """Takes logits, and can be read when the pass is over."""

    def read(self) -> Reading:
        """What it took."""
        ...
