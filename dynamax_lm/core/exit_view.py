"""The inputs of a confidence measure at one exit: hidden states, and logits computed on demand.

A check computes at most one vocabulary projection, which the emission reuses, or a cheap look in
place of it (``core.cheap_look``); ``slices`` bounds the number of logits in memory.

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
        stack: the decoder, for cheap looks at the vocabulary; ``None`` where there are none.
    """

    unembed: Callable[[Tensor], Tensor]
    exit: int
    layer: int
    index: Tensor
    hidden: Tensor
    session: HeadSession | None
    choose: Choose | None = None
    targets: Tensor | None = None
    stack: LayerStack | None = None
    _chosen: Tensor | None = field(default=None, init=False)

    @cached_property
    def translated(self) -> Tensor:
        """(n, D) the input of the unembedding, of all the tokens."""
        return self._translate(self.hidden)

    @cached_property
    def normed(self) -> Tensor:
        """(n, D) the input of the vocabulary projection, of all the tokens."""
        return self._decoder.normed(self.translated)

    @cached_property
    def logits(self) -> Tensor:
        return self.unembed(self.translated)

    def low_rank_logits(self, rank: int) -> Tensor:
        return self._decoder.project_low_rank(self.normed, rank)

    def logits_of(self, tokens: Tensor) -> Tensor:
        return self._decoder.project_tokens(self.normed, tokens)

    def some_logits(self, some: Tensor) -> Tensor:
        """Logits of the tokens where ``some`` (n,) holds; a check's results are used again."""
        if "logits" in self.__dict__:
            return self.logits[some.to(self.logits.device)]
        if "translated" in self.__dict__:
            return self.unembed(self.translated[some.to(self.translated.device)])
        return self.unembed(self._translate(self.hidden[some.to(self.hidden.device)]))

    def _translate(self, hidden: Tensor) -> Tensor:
        """(n, D) ``hidden`` (n, D) translated, if there is a translator."""
        return hidden if self.session is None else self.session.translate(self.layer, hidden)

    @property
    def _decoder(self) -> LayerStack:
        if self.stack is None:
            raise ValueError("a cheap look at the vocabulary needs the decoder")
        return self.stack

    def some_emission(self, some: Tensor) -> Tensor:
        """The tokens that this exit would emit where ``some`` (n,) holds."""
        logits = self.some_logits(some)
        index = self.index[some.to(self.index.device)]
        return logits.argmax(-1) if self.choose is None else self.choose(index, logits)

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
