"""What the engine may ask of trained heads.

Owns the protocol and the rule of how long heads remember: as long as one batch is answered, from
the first step that may exit, whatever rows drop out meanwhile. Prompts, the reference and the
oracle's full-depth passes ask no exits, and leave no trace in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class TrainedHeads(Protocol):
    """Classifiers and translators; an exit is named by its layer, 1..L-1."""

    def new_state(self, rows: int) -> Any:
        """An empty memory for a batch of ``rows`` rows."""
        ...

    def begin(self, state: Any, tokens: int) -> None:
        """A pass of ``tokens`` tokens begins."""
        ...

    def confidence(
        self, layer: int, hidden: Tensor, *, rows: Tensor, tokens: Tensor, state: Any
    ) -> Tensor:
        """(n,) in [0, 1]: how likely leaving is right; ``state`` has then seen these tokens.

        Args:
            layer: the exit.
            hidden: (n, D) of the tokens asked.
            rows: (n,) the batch's row of each; a row's tokens stand together, in order.
            tokens: (n,) which of the pass's tokens these are.
            state: of the batch.
        """
        ...

    def translate(self, layer: int, hidden: Tensor) -> Tensor:
        """(n, D) what the unembedding reads in place of ``hidden`` (n, D)."""
        ...


@dataclass(frozen=True, slots=True)
class Advice:
    """Heads with what they remember of one batch.

    Attributes:
        heads: the heads.
        state: their memory of the batch.
    """

    heads: TrainedHeads
    state: Any

    @classmethod
    def of(cls, heads: TrainedHeads | None, rows: int) -> Advice | None:
        """Heads at the beginning of a batch, or ``None`` without heads."""
        return None if heads is None else cls(heads, heads.new_state(rows))
