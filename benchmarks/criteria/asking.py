"""The exit of each token, from full-depth states, for every measure and threshold.

The run of an exit rule is teacher-forced: measures, heads and rule are the engine's, evaluated on
stored states, so that no skipped state affects a later token.

Glossary: E exits, N tokens, n tokens of a piece, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.criteria.states import States
from dynamax_lm.common.outputs import replacing
from dynamax_lm.core.exit_view import View
from dynamax_lm.core.measures import BUILT_IN, facts_of
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.exit_probe import ConfidenceGrid, TokenGrid
from dynamax_lm.engine.head_session import HeadSession
from dynamax_lm.heads import ExitHeads

Unembed = Callable[[Tensor], Tensor]
"""(n, D) to (n, V) logits: final norm and vocabulary projection."""

UNTRAINED = tuple(
    name for name, facts in BUILT_IN.items() if facts.reads != "heads" and not facts.needs_target
)
"""The package's measures that need neither training nor full depth's token."""

_TOKENS_AT_ONCE = 512
_DOCUMENTS_AT_ONCE = 512
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Exits:
    """Tokens and confidences of the exits, which do not depend on the exit rule.

    Attributes:
        tokens: (E, N) each exit's most likely token, translated.
        right: (E, N) whether it is full depth's.
        confidences: (E, N) of each measure that needs no training.
    """

    tokens: NDArray[np.int64]
    right: NDArray[np.bool_]
    confidences: dict[str, NDArray[np.float32]]


class Rule(Protocol):
    """An exit rule that can be run at any threshold."""

    def leave(self, threshold: float) -> NDArray[np.int64]:
        """(N,) the number of each token's exit; E for full depth."""
        ...


@torch.inference_mode()
def read_exits(
    states: States,
    unembed: Unembed,
    translators: ExitHeads | None,
    measures: Sequence[str] = UNTRAINED,
    stack: Any = None,
) -> Exits:
    """Project every token at every exit once and compute the measures.

    Args:
        states: of full-depth answers.
        unembed: of the backbone.
        translators: heads with the translators that precede it, if any.
        measures: names of those that read logits or hidden states.
        stack: the decoder, which measures with a cheap look need.
    """
    count, exits = len(states.token), len(states.exits)
    tokens = np.zeros((exits, count), dtype=np.int64)
    confidences = {name: np.zeros((exits, count), dtype=np.float32) for name in measures}
    for part in _pieces(count):
        length = len(states.token[part])
        grids = {
            name: ConfidenceGrid(name, length, exits)
            for name in measures
            if exits >= facts_of(name).least_exits
        }
        most_likely = TokenGrid(length, exits)
        session = HeadSession.of(translators, 1)
        for number, layer in enumerate(states.exits):
            hidden = states.at(number, part)
            index = torch.arange(length)
            view = View(unembed, number, layer, index, hidden, session, stack=stack)
            for observer in (*grids.values(), most_likely):
                observer.on_exit(view)
        for name, grid in grids.items():
            confidences[name][:, part] = grid.confidence.T.numpy()
        tokens[:, part] = most_likely.tokens[:, :-1].T.numpy()
    return Exits(tokens, tokens == states.token, confidences)


def cached_exits(
    path: Path,
    states: States,
    unembed: Unembed,
    translators: ExitHeads | None,
    measures: Sequence[str],
    stack: Any = None,
) -> Exits:
    """:func:`read_exits`, kept in the file ``path`` and made again where it lacks a measure."""
    if path.is_file():
        with np.load(path) as kept:
            if all(f"by_{name}" in kept for name in measures):
                by = {name: kept[f"by_{name}"] for name in measures}
                return Exits(kept["tokens"], kept["right"], by)
    found = read_exits(states, unembed, translators, measures, stack)
    by = {f"by_{name}": one for name, one in found.confidences.items()}
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, tokens=found.tokens, right=found.right, **by)  # type: ignore[arg-type]
    return found


@dataclass(frozen=True)
class Fixed:
    """A measure whose confidence does not depend on which tokens exited before.

    Attributes:
        confidence: (E, N).
    """

    confidence: NDArray[np.float32]

    def leave(self, threshold: float) -> NDArray[np.int64]:
        """(N,) the number of the exit; E for full depth."""
        policy = ExitPolicy(threshold=threshold)
        leaves = policy.exiting(torch.from_numpy(self.confidence)).numpy()
        found: NDArray[np.int64] = np.where(leaves.any(0), leaves.argmax(0), len(leaves))
        return found


class Trained:
    """A trained classifier, evaluated as in the engine: exited tokens are not checked again.

    Args:
        heads: the classifier; its translators are not used here.
        states: of full-depth answers.
    """

    def __init__(self, heads: ExitHeads, states: States) -> None:
        self._heads, self._states = heads.eval(), states

    @cached_property
    def _surest(self) -> float:
        """The highest confidence if no token exits; with a threshold above it, none does."""
        return float(self.everywhere().max())

    @torch.inference_mode()
    def leave(self, threshold: float) -> NDArray[np.int64]:
        """(N,) the number of the exit; E for full depth."""
        found = np.full(len(self._states.token), len(self._states.exits))
        if threshold > self._surest + _ROUNDING:
            return found
        for part, rows in _documents(self._states):
            found[part] = self._leave(part, rows, ExitPolicy(threshold=threshold))
        return found

    @torch.inference_mode()
    def everywhere(self) -> NDArray[np.float32]:
        """(E, N) confidences if no token exits."""
        found = np.zeros((len(self._states.exits), len(self._states.token)), dtype=np.float32)
        for part, rows in _documents(self._states):
            state = self._heads.new_state(int(rows.max()) + 1)
            tokens = torch.arange(len(rows))
            self._heads.begin(state, len(rows))
            for number, layer in enumerate(self._states.exits):
                sure = self._heads.confidence(
                    layer, self._states.at(number, part), rows=rows, tokens=tokens, state=state
                )
                found[number, part] = sure.numpy()
        return found

    def rule(self) -> Rule:
        """The same rule, with confidences computed once where that is exact."""
        if self._heads.config.classifier == "mamba":
            return self
        return Fixed(self.everywhere())

    def _leave(self, part: slice, rows: Tensor, policy: ExitPolicy) -> NDArray[np.int64]:
        state = self._heads.new_state(int(rows.max()) + 1)
        self._heads.begin(state, len(rows))
        found = np.full(len(rows), len(self._states.exits))
        running = torch.arange(len(rows))
        for number, layer in enumerate(self._states.exits):
            if not len(running):
                break
            hidden = self._states.at(number, part)[running]
            sure = self._heads.confidence(
                layer, hidden, rows=rows[running], tokens=running, state=state
            )
            going = policy.exiting(sure)
            found[running[going].numpy()] = number
            running = running[~going]
        return found


def _pieces(count: int) -> Iterator[slice]:
    return (slice(at, min(at + _TOKENS_AT_ONCE, count)) for at in range(0, count, _TOKENS_AT_ONCE))


def _documents(states: States) -> Iterator[tuple[slice, Tensor]]:
    """Tokens of some documents at a time, and (n,) the row of each from 0."""
    last = int(states.document[-1]) + 1
    for first in range(0, last, _DOCUMENTS_AT_ONCE):
        edges = np.searchsorted(states.document, [first, min(first + _DOCUMENTS_AT_ONCE, last)])
        part = slice(int(edges[0]), int(edges[1]))
        yield part, torch.from_numpy(states.document[part] - first)
