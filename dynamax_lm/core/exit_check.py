"""The check at one exit: confidences and decisions of the tokens that reach it, and emissions.

Glossary: N tokens of the pass, n tokens at the exit, E exits, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dynamax_lm.core.confidence import Confidence
from dynamax_lm.core.exit_view import PassHeads, View, slices
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import LayerStack


class LogitsSink(Protocol):
    """Receives the logits of exiting tokens."""

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        """(n,) the token that each would emit; changes no state.

        Args:
            index: (n,) which of the pass's N tokens these are.
            logits: (n, V) raw logits.
        """
        ...

    def emit(self, index: Tensor, logits: Tensor) -> None:
        """Emit from these logits; called once per token of the pass."""
        ...


class Checked(NamedTuple):
    """Decisions at an exit.

    Attributes:
        exiting: (n,) bool, on the device of the index.
        confidence: (n,).
    """

    exiting: Tensor
    confidence: Tensor


@dataclass(frozen=True, slots=True)
class ExitCheck:
    """What every exit of a pass has in common.

    Attributes:
        stack: the decoder.
        policy: when a token exits.
        measure: of confidence; it may keep state about a token's earlier exits.
        sink: receives the logits of each token once.
        session: trained heads and their state, if any.
        targets: (N,) full-depth tokens, for the oracle.
        later: receives the exiting tokens (n,) whose logits no check has computed, with the input
            of the unembedding (n, D), in place of ``sink``.
    """

    stack: LayerStack
    policy: ExitPolicy
    measure: Confidence
    sink: LogitsSink
    session: PassHeads | None = None
    targets: Tensor | None = None
    later: Callable[[Tensor, Tensor], None] | None = None

    def at_exit(self, exit: int, index: Tensor, hidden: Tensor, cutoffs: Tensor | None) -> Checked:
        """Check one exit, and emit the tokens that leave there.

        Args:
            exit: which exit, from 0.
            index: (n,) which of the pass's N tokens are at the exit.
            hidden: (n, D) of them.
            cutoffs: (n,) of each token, or (n, E) of each token and exit, in place of the policy's
                threshold; see ``ExitPolicy.cutoffs``.
        """
        exiting = torch.zeros_like(index, dtype=torch.bool)
        confidence = torch.empty(index.shape, device=index.device)
        if cutoffs is not None and cutoffs.dim() > 1:
            cutoffs = cutoffs[:, exit]
        for part in slices(self.stack, index.shape[0]):
            view = View(
                unembed=self.stack.unembed,
                exit=exit,
                layer=self.policy.exit_layers[exit],
                index=index[part],
                hidden=hidden[part],
                session=self.session,
                choose=self.sink.choose,
                targets=self.targets,
                stack=self.stack,
            )
            checked = self.measure.ask(view).to(index.device)
            confidence[part] = checked
            leaving = self.policy.exiting(checked, None if cutoffs is None else cutoffs[part])
            exiting[part] = leaving
            if not leaving.any():
                continue
            if self.later is None or view.has_logits:
                self.sink.emit(view.index[leaving], view.some_logits(leaving))
            else:
                self.later(view.index[leaving], view.some_translated(leaving))
        return Checked(exiting, confidence)

    def emit(self, index: Tensor, hidden: Tensor) -> None:
        """Emit the tokens ``index`` (n,) from the inputs of the unembedding ``hidden`` (n, D)."""
        for part in slices(self.stack, index.shape[0]):
            self.sink.emit(index[part], self.stack.unembed(hidden[part]))
