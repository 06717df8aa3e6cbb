"""Generation requests, the partial answer of a row, and token choice from logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dynamax_lm.core.trace import DraftRound
from dynamax_lm.engine.reading import Reading


class Chooser(Protocol):
    """Chooses one row's next token; the same arguments always give the same token."""

    def __call__(self, answer: Sequence[int], logits: Tensor) -> int:
        """The next token after ``answer``, from raw ``logits`` (1, V)."""
        ...


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A text to continue.

    >>> request = GenerateRequest(prompt=(5, 6), max_new=8, stops=lambda answer: answer[-1] == 2)
    >>> request.finished([7, 9]), request.finished([7, 2])
    (False, True)

    Attributes:
        prompt: token ids, at least one.
        max_new: largest number of tokens to generate, at least 1.
        stops: whether an answer ends with a stop sequence, which is part of it.
        chooser: how to choose a token; ``None`` takes the most likely one.
        key: identifies all of the above: equal keys, equal full-depth answers; ``None`` if unknown.
    """

    prompt: tuple[int, ...]
    max_new: int
    stops: Callable[[Sequence[int]], bool]
    chooser: Chooser | None = None
    key: str | None = None

    def finished(self, answer: Sequence[int]) -> bool:
        """Whether ``answer`` is complete."""
        return len(answer) >= self.max_new or self.stops(answer)


@dataclass
class Progress:
    """One row's answer so far.

    Attributes:
        tokens: token ids.
        layers_used: layers run for each, 1..L.
        confidence: of each, at the exit it took or the last one checked.
        exact: the tokens that full depth emits from an exact state, for the oracle; else empty.
        rounds: drafts of lossless decoding; else empty.
    """

    tokens: list[int] = field(default_factory=list)
    layers_used: list[int] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)
    exact: list[int] = field(default_factory=list)
    rounds: list[DraftRound] = field(default_factory=list)


OnStep = Callable[[Sequence[Progress]], None]
"""Called after each decoding step with the answers so far, for example to display them."""


class TokenChoice:
    """Chooses tokens for a pass: token i continues ``prefixes[i]`` of request ``owners[i]``.

    Attributes:
        owners: the requests; ``None`` where there is no token.
        prefixes: the answers so far.
        tokens: (N,) the tokens emitted.
    """

    def __init__(
        self,
        owners: Sequence[GenerateRequest | None],
        prefixes: Sequence[Sequence[int]],
    ) -> None:
        self.owners, self.prefixes = list(owners), list(prefixes)
        self.tokens = torch.zeros(len(self.owners), dtype=torch.long)

    @classmethod
    def of_rows(cls, rows: int) -> TokenChoice:
        """For ``rows`` rows, whose requests are set later."""
        return cls([None] * rows, [()] * rows)

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        chosen = logits.argmax(-1)
        for place, token in enumerate(index.tolist()):
            owner = self.owners[token]
            if owner is not None and owner.chooser is not None:
                chosen[place] = owner.chooser(self.prefixes[token], logits[place : place + 1])
        return chosen

    def emit(self, index: Tensor, logits: Tensor) -> None:
        self.tokens[index.cpu()] = self.choose(index, logits).cpu()

    def read(self) -> Reading:
        """The chosen tokens, without target tokens (K = 0)."""
        return Reading(torch.zeros(self.tokens.shape[0], 0), self.tokens)


def answer_inputs(request: GenerateRequest, answer: Sequence[int], steps: int) -> list[int]:
    """The input tokens that produce the first ``steps`` tokens of ``answer``."""
    return [request.prompt[-1], *answer[: steps - 1]]
