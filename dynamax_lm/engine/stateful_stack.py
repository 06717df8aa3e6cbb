"""What the engine needs of a decoder beyond its layers: states that it makes, copies and restores.

Glossary: B rows of a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.stack import DecoderState, LayerStack, TokenBatch


class StatefulStack(LayerStack, Protocol):
    """A decoder whose states have rows that can be copied, replaced and restored.

    The state passed to its methods is one that ``new_state`` or ``take`` of the same decoder made.
    """

    @property
    def costs(self) -> DecoderCosts:
        """FLOPs of its layers."""
        ...

    def new_state(self, batch: int) -> DecoderState:
        """An empty state of ``batch`` rows."""
        ...

    def replay(
        self,
        state: Any,
        token_batch: TokenBatch,
        layers: range,
        hidden: Tensor | None,
        skipped_state: str,
        running: int | None,
    ) -> Tensor | None:
        """(N, D) of each row's last token after ``layers``, by a recorded step.

        Args:
            state: of the rows; afterwards it includes ``token_batch``.
            token_batch: one token a row, or pending tokens of each row.
            layers: to run.
            hidden: of all tokens, row after row; ``None`` before the first layer.
            skipped_state: the skipped-state policy.
            running: 1 if the last token of each row runs and the others have exited; 0 if none
                runs; ``None`` if all do.

        Returns:
            ``None`` where the decoder has no such recorded step: the layers then run one by one.
        """
        ...

    def mark(self, state: Any) -> Any:
        """A snapshot of ``state`` for :meth:`rewind`."""
        ...

    def rewind(self, state: Any, mark: Any) -> None:
        """Restore ``state`` to the snapshot ``mark``."""
        ...

    def begin_draft(self, state: Any, rows: Sequence[int]) -> None:
        """Tokens that ``rows`` get from now on can be withdrawn; none is pending."""
        ...

    def end_draft(self, state: Any, rows: Sequence[int]) -> None:
        """Discard what the drafts of ``rows`` need: none of them is withdrawn any more."""
        ...

    def withdraw(self, state: Any, kept: Mapping[int, int], given: Mapping[int, int]) -> None:
        """Remove tokens that some rows got since ``begin_draft``, except the first of them.

        Args:
            state: of the decoder; no token of these rows is pending.
            kept: by row, how many of these tokens stay, at least 1 and fewer than ``given``.
            given: by row, how many tokens it got.
        """
        ...

    def take(self, state: Any, rows: Sequence[int]) -> DecoderState:
        """A new, independent state of ``rows`` of ``state``; rows may repeat."""
        ...

    def put(self, state: Any, rows: Sequence[int], source: Any, taken: Sequence[int]) -> None:
        """Copy rows ``taken`` of ``source`` over ``rows`` of ``state``, which are discarded.

        Args:
            state: of the decoder.
            rows: as many as ``taken``, all different.
            source: another state of the decoder; no token of the rows taken is pending.
            taken: rows of ``source``.
        """
        ...
