"""Constants by which a model scales its embeddings and its logits.

Glossary: N token slots, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scaling:
    """Scaling outside the layers; by default none.

    Attributes:
        embeddings: factor of the embeddings.
        logits: factor of the logits.
        divisor: of the logits, after ``logits``.
        cap: logits become ``cap * tanh(logits / cap)``; 0 for no cap.
        float32: whether logits are returned in float32.
    """

    embeddings: float = 1.0
    logits: float = 1.0
    divisor: float = 1.0
    cap: float = 0.0
    float32: bool = False

    def embedded(self, hidden: Tensor) -> Tensor:
        """(N, D) scaled embeddings."""
        return hidden if self.embeddings == 1.0 else hidden * self.embeddings

    def finished(self, logits: Tensor) -> Tensor:
        """(N, V) scaled logits, by transformers' operations in their order."""
        if self.logits != 1.0:
            logits = logits * self.logits
        if self.divisor != 1.0:
            logits = logits / self.divisor
        if self.cap:
            logits = (logits / self.cap).tanh() * self.cap
        return logits.float() if self.float32 else logits


UNSCALED = Scaling()
"""The constants of most decoders: none."""
