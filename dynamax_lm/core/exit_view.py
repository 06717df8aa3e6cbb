"""What a confidence measure reads at one exit: hidden states, and logits computed on demand.

`ExitView` is the part that measures see; `View` is the loop's own, from which a cheap look and the
emission also read.

A check computes at most one vocabulary projection, which the emission reuses, or a cheap look in
place of it (``core.cheap_look``); ``slices`` bounds the number of logits in memory.

Glossary: n tokens at the exit, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from torch import Tensor

from dynamax_lm.core.stack import LayerStack, TokenBatch

LOGITS_AT_ONCE = 1 << 25
"""Largest number of logits in memory at a time: 128 MiB in float32."""

Choose = Callable[[Tensor, Tensor], Tensor]
"""From index (n,) and logits (n, V) to the (n,) tokens that would be emitted."""


class ExitView(Protocol):
    """The inputs of a measure at one exit. Reading ``logits`` computes a vocabulary projection.

    Under a cheap look a measure's ``logits`` are those of the look. Where layers lie on several
    devices, tokens and ``index`` are on one, ``hidden`` on its layer's, and ``logits`` on the
    vocabulary projection's.

    >>> def top_prob(view: ExitView) -> Tensor:
    ...     return view.logits.float().softmax(-1).amax(-1)
    """

    @property
    def exit(self) -> int:
        """Which exit this is, from 0."""
        ...

    @property
    def index(self) -> Tensor:
        """(n,) which of the pass's N tokens are checked."""
        ...

    @property
    def hidden(self) -> Tensor:
        """(n, D) hidden states of the tokens checked."""
        ...

    @property
    def logits(self) -> Tensor:
        """(n, V) raw logits of this exit."""
        ...

    @property
    def emission(self) -> Tensor:
        """(n,) the tokens this exit would emit."""
        ...

    @property
    def target(self) -> Tensor:
        """(n,) the tokens that full depth emits from an exact state; for the oracle."""
        ...

    @property
    def trained(self) -> Tensor:
        """(n,) outputs of trained classifiers for the tokens checked. Read it once per exit."""
        ...


class Narrowed:
    """Base of views that give tokens and hidden states, and refuse part of the rest.

    Args:
        view: of the same tokens.
    """

    def __init__(self, view: ExitView) -> None:
        self._view = view

    @property
    def exit(self) -> int:
        return self._view.exit

    @property
    def index(self) -> Tensor:
        return self._view.index

    @property
    def hidden(self) -> Tensor:
        return self._view.hidden


class PassHeads(Protocol):
    """Trained heads during a pass: classifiers and translators, by the layer of their exit."""

    def begin(self, token_batch: TokenBatch, slots: Tensor) -> None:
        """A pass over ``slots`` (N,) of ``token_batch`` begins."""
        ...

    def confidence(self, layer: int, hidden: Tensor, index: Tensor) -> Tensor:
        """(n,) in [0, 1], of tokens ``index`` (n,) of the pass; called once per token and exit."""
        ...

    def translate(self, layer: int, hidden: Tensor) -> Tensor:
        """(n, D) the input of the unembedding in place of ``hidden`` (n, D)."""
        ...


@dataclass
class View:
    """A slice of the tokens that reach an exit: an `ExitView`, and what a look and emissions read.

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
        looked: (n, V) logits of the check's cheap look, if it had one.
    """

    unembed: Callable[[Tensor], Tensor]
    exit: int
    layer: int
    index: Tensor
    hidden: Tensor
    session: PassHeads | None
    choose: Choose | None = None
    targets: Tensor | None = None
    stack: LayerStack | None = None
    looked: Tensor | None = field(default=None, init=False)
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
        if self.has_logits:
            return self.logits[some.to(self.logits.device)]
        return self.unembed(self.some_translated(some))

    @property
    def has_logits(self) -> bool:
        """Whether the check has computed the exact logits."""
        return "logits" in self.__dict__

    def some_translated(self, some: Tensor) -> Tensor:
        """The input of the unembedding where ``some`` (n,) holds."""
        if "translated" in self.__dict__:
            return self.translated[some.to(self.translated.device)]
        return self._translate(self.hidden[some.to(self.hidden.device)])

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
        return self._choose(some, self.some_logits(some))

    def some_drafts(self, some: Tensor) -> Tensor:
        """The tokens that this exit drafts where ``some`` (n,) holds.

        They are verified, so that after a cheap look its logits do, and no others are computed.
        """
        if self.looked is None:
            return self.some_emission(some)
        return self._choose(some, self.looked[some.to(self.looked.device)])

    def _choose(self, some: Tensor, logits: Tensor) -> Tensor:
        index = self.index[some.to(self.index.device)]
        return logits.argmax(-1) if self.choose is None else self.choose(index, logits)

    @property
    def emission(self) -> Tensor:
        if self._chosen is None:
            choose, logits = self.choose, self.logits
            chosen = logits.argmax(-1) if choose is None else choose(self.index, logits)
            self._chosen = chosen.to(self.index.device)
        return self._chosen

    @property
    def target(self) -> Tensor:
        if self.targets is None:
            raise ValueError("confidence 'oracle' needs the full-depth tokens of the token batch")
        return self.targets[self.index.to(self.targets.device)].to(self.index.device)

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
