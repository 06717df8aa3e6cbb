"""The inputs of a confidence measure at one exit: hidden states, and logits computed on demand.

A check computes at most one vocabulary projection, which the emission reuses; ``slices`` bounds the
number of logits in memory.

Glossary: n tokens at the exit, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from dynamax_lm.core.head_session import HeadSession
from dynamax_lm.core.stack import LayerStack

LOGITS_AT_ONCE = 1 << 25
"""Largest number of logits in memory at a time: 128 MiB in float32."""

Choose = Callable[[Tensor, Tensor], Tensor]
"""From index (n,) and logits (n, V) to the (n,) tokens that would be emitted."""


@dataclass
class View:
    """A slice of the tokens that reach an exit (``core.confidence.ExitView``).

    Attributes:
        unembed: from (n, D) to (n, V) logits: final norm and vocabulary projection.
        exit: which exit this is, from 0.
        layer: layers run before it, 1..L-1.
        index: (n,) which of the pass's tokens these are.
        hidden: (n, D) their hidden states.
        session: trained heads, if any.
        choose: how a token is chosen; ``None`` for the most likely one.
        targets: (N,) full-depth tokens of the whole pass, for the oracle.
    """

    unembed: Callable[[Tensor], Tensor]
    exit: int
    layer: int
    index: Tensor
    hidden: Tensor
    session: HeadSession | None
    choose: Choose | None = None
    targets: Tensor | None = None
    _chosen: Tensor | None = field(default=None, init=False)

    @cached_property
    def logits(self) -> Tensor:
        return self.project(self.hidden)

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of ``hidden`` (n, D) at this exit: translated, if there is a translator."""
        if self.session is not None:
            hidden = self.session.translate(self.layer, hidden)
        return self.unembed(hidden)

    def some_logits(self, some: Tensor) -> Tensor:
        """Logits of the tokens where ``some`` (n,) holds, reused from a check where possible."""
        if "logits" in self.__dict__:
            return self.logits[some.to(self.logits.device)]
        return self.project(self.hidden[some.to(self.hidden.device)])

    @property
    def emission(self) -> Tensor:
        if self.choose is None:
            return self.logits.argmax(-1)
        if self._chosen is None:
            self._chosen = self.choose(self.index, self.logits)
        return self._chosen

    @property
    def target(self) -> Tensor:
        if self.targets is None:
            raise ValueError("confidence 'oracle' needs the full-depth tokens of the chunk")
        return self.targets[self.index].to(self.hidden.device)

    @property
    def trained(self) -> Tensor:
        if self.session is None:
            raise ValueError("confidence 'head' needs trained heads")
        return self.session.confidence(self.layer, self.hidden, self.index)


def slices(stack: LayerStack, count: int) -> Iterator[slice]:
    """Cut ``count`` tokens so that the logits of a slice stay within the memory bound."""
    rows = max(1, LOGITS_AT_ONCE // stack.vocab_size)
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))
