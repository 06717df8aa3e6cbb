"""What an exit rule costs and how far it agrees, document by document, and its static twin.

Owns the way from depths to per-document numbers. Every FLOP is the package ledger's own. It does
not know how a depth was decided.

Glossary: E exits, N tokens, M documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.criteria.states import States
from dynamax_lm.ledger import ExitExtras, LayerCosts, Ledger

Floats = NDArray[np.float64]


class PerDocument(NamedTuple):
    """Numbers of each document.

    Attributes:
        saved: (M,) net share of decode FLOPs, 1 - spent / full depth.
        agreement: (M,) share of tokens equal to full depth's.
        layers: (M,) mean layers run.
    """

    saved: Floats
    agreement: Floats
    layers: Floats

    def of(self, documents: NDArray[np.int64]) -> PerDocument:
        """Those of some documents."""
        return PerDocument(*(column[documents] for column in self))

    @property
    def means(self) -> tuple[float, float, float]:
        """The mean of each."""
        return float(self.saved.mean()), float(self.agreement.mean()), float(self.layers.mean())


@dataclass(frozen=True)
class Tariff:
    """One rule's bill for each token at each depth.

    Attributes:
        states: the tokens.
        spent: (E + 1, N) FLOPs if it leaves there.
        full: (N,) FLOPs at full depth.
    """

    states: States
    spent: NDArray[np.int64]
    full: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        states: States,
        costs: LayerCosts,
        confidence: str,
        skipped_state: str,
        extras: Sequence[ExitExtras],
    ) -> Tariff:
        """Ask the ledger for every position and depth that occurs."""
        ledger = Ledger(
            costs,
            exit_layers=states.exits,
            confidence=confidence,
            skipped_state=skipped_state,
            exit_extras=extras,
        )
        positions, inverse = np.unique(states.position, return_inverse=True)
        table = [
            [ledger.answer(int(position), [depth]) for position in positions]
            for depth in states.layers
        ]
        spent = np.array([[bill.spent for bill in row] for row in table])
        full = np.array([bill.full_depth for bill in table[0]])
        return cls(states, spent[:, inverse], full[inverse])

    def account(self, leave: NDArray[np.int64], right: NDArray[np.bool_]) -> PerDocument:
        """The documents' numbers.

        Args:
            leave: (N,) the number of the exit; E for full depth.
            right: (E, N) whether each exit's token is full depth's.
        """
        place = np.arange(len(leave))
        agrees = np.concatenate([right, np.ones((1, len(leave)), dtype=bool)])[leave, place]
        layers = np.array(self.states.layers)[leave]
        tokens = self._sum(np.ones(len(leave)))
        return PerDocument(
            1.0 - self._sum(self.spent[leave, place]) / self._sum(self.full),
            self._sum(agrees) / tokens,
            self._sum(layers) / tokens,
        )

    def _sum(self, values: NDArray[np.generic]) -> Floats:
        weights = values.astype(np.float64)
        return np.bincount(self.states.document, weights, minlength=len(self.states.tasks))


class Twin(NamedTuple):
    """A mixture of two static depths that costs the same as a dynamic rule.

    Attributes:
        shallow: layers of the one.
        deep: layers of the other; L for full depth.
        share: of tokens that go to ``deep``, in [0, 1].
        saved: what both save, net.
        agreement: what the mixture agrees on.
    """

    shallow: int
    deep: int
    share: float
    saved: float
    agreement: float


def static_depths(
    states: States,
    costs: LayerCosts,
    skipped_state: str,
    translator_flops: Sequence[int],
    right: NDArray[np.bool_],
) -> list[PerDocument]:
    """Every exit as the only depth, nothing asked, then full depth."""
    extras = [ExitExtras(0, flops) for flops in translator_flops]
    # the oracle's bill has no checks: layers, state and one projection
    tariff = Tariff.of(states, costs, "oracle", skipped_state, extras)
    count = len(states.token)
    return [tariff.account(np.full(count, number), right) for number in range(len(states.layers))]


def twin(layers: Sequence[int], statics: Sequence[PerDocument], saved: float) -> Twin | None:
    """The best mixture of two static depths that saves exactly ``saved``.

    Args:
        layers: the exits, then L.
        statics: of each.
        saved: by the dynamic rule.

    Returns:
        ``None`` where no mixture costs as much or as little: a rule that costs more than full
        depth.
    """
    points = [one.means[:2] for one in statics]
    best: Twin | None = None
    for shallow, (more, low) in enumerate(points):
        for deep in range(shallow + 1, len(points)):
            less, high = points[deep]
            if not less <= saved <= more or less == more:
                continue
            share = (more - saved) / (more - less)
            agreement = (1 - share) * low + share * high
            if best is None or agreement > best.agreement:
                mixed = (1 - share) * more + share * less
                best = Twin(layers[shallow], layers[deep], share, mixed, agreement)
    return best
