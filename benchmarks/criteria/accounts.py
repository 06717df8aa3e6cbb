"""Cost and agreement of an exit rule and of fixed depths, document by document.

Turns the depth of each token into numbers of each document; all FLOPs come from the package's
ledger.

Glossary: E exits, N tokens, M documents, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.criteria.states import States
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.fixed_depth import FixedDepths
from dynamax_lm.core.ledger import HeadCosts, Ledger

Floats = NDArray[np.float64]
_ROUNDING = 1e-12


class PerDocument(NamedTuple):
    """Numbers of each document, at one or several thresholds.

    Attributes:
        saved: (..., M) net share of decode FLOPs, 1 - spent / full depth.
        agreement: (..., M) share of tokens equal to full depth's.
        layers: (..., M) mean layers run.
    """

    saved: Floats
    agreement: Floats
    layers: Floats

    @classmethod
    def stack(cls, rows: Sequence[PerDocument]) -> PerDocument:
        """One row each."""
        return cls(*(np.stack(column) for column in zip(*rows, strict=True)))

    def of(self, documents: NDArray[np.int64]) -> PerDocument:
        """Those of some documents."""
        return PerDocument(*(column[..., documents] for column in self))

    @property
    def means(self) -> tuple[float, float, float]:
        """The mean of each over documents."""
        return float(self.saved.mean()), float(self.agreement.mean()), float(self.layers.mean())


class Grid(NamedTuple):
    """A rule at every threshold.

    Attributes:
        thresholds: (T,) ascending; at the last no token exits.
        numbers: (T, M) each.
    """

    thresholds: Floats
    numbers: PerDocument

    def every(self, step: int) -> Grid:
        """Thresholds at regular steps, the last included."""
        kept = np.arange(len(self.thresholds) - 1, -1, -step)[::-1]
        return Grid(self.thresholds[kept], PerDocument(*(column[kept] for column in self.numbers)))


@dataclass(frozen=True)
class CostTable:
    """One rule's bill for each token at each depth, over the tokens that count.

    Attributes:
        states: the tokens.
        counted: (N,) which of them count; every document has one at least.
        spent: (E + 1, N) FLOPs if it exits there.
        full: (N,) FLOPs at full depth.
    """

    states: States
    counted: NDArray[np.bool_]
    spent: NDArray[np.float64]
    full: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        states: States,
        costs: DecoderCosts,
        confidence: str,
        skipped_state: str,
        extras: Sequence[HeadCosts],
        counted: NDArray[np.bool_] | None = None,
    ) -> CostTable:
        """The bill of every position and depth that occurs; all tokens count by default."""
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
        spent = np.array([[float(bill.spent) for bill in row] for row in table])
        full = np.array([float(bill.full_depth) for bill in table[0]])
        return cls(states, _all(states, counted), spent[:, inverse], full[inverse])

    @classmethod
    def of_fixed_depths(
        cls,
        states: States,
        costs: DecoderCosts,
        translator_flops: Sequence[int],
        counted: NDArray[np.bool_] | None = None,
    ) -> CostTable:
        """Every exit as a model's only depth, then full depth."""
        positions, inverse = np.unique(states.position, return_inverse=True)
        spent = np.array(
            [
                [
                    FixedDepths.of(costs, mean_layer(costs, int(position)), 1).at(depth, translator)
                    for position in positions
                ]
                for depth, translator in zip(states.layers, (*translator_flops, 0), strict=True)
            ]
        )[:, inverse]
        return cls(states, _all(states, counted), spent, spent[-1])

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
        weights = np.where(self.counted, values, 0).astype(np.float64)
        found: Floats = np.bincount(
            self.states.document, weights, minlength=len(self.states.tasks)
        ).astype(np.float64)
        return found


def mean_layer(costs: DecoderCosts, position: int) -> float:
    """FLOPs of one layer for the token at a position, a mean over layers."""
    return costs.layers(position, 0, costs.n_layers) / costs.n_layers


def static_depths(cost_table: CostTable, right: NDArray[np.bool_]) -> PerDocument:
    """(E + 1, M): every depth of :meth:`CostTable.of_fixed_depths`, for all tokens."""
    count = len(cost_table.states.token)
    depths = range(len(cost_table.states.layers))
    return PerDocument.stack([cost_table.account(np.full(count, one), right) for one in depths])


class Twin(NamedTuple):
    """A mixture of two fixed depths, drawn for each document, that costs what a rule costs.

    Attributes:
        shallow: number of the one depth.
        deep: number of the other; the last is full depth.
        share: of documents run at ``deep``, in [0, 1].
        agreement: of the mixture.
    """

    shallow: int
    deep: int
    share: float
    agreement: float


def twin(saved: float, static_saved: Floats, static_agreement: Floats) -> Twin | None:
    """The best mixture of two depths that saves exactly ``saved``.

    Args:
        saved: by the dynamic rule.
        static_saved: (E + 1,) means of fixed depths; 0 for full depth, the last.
        static_agreement: (E + 1,) likewise.

    Returns:
        ``None`` where full depth is cheaper than the rule.
    """
    if saved < static_saved.min():
        return None
    best = _best(np.array([saved]), static_saved[None], static_agreement[None])
    shallow, deep = divmod(int(best.pair[0]), len(static_saved))
    return Twin(shallow, deep, float(best.share[0]), float(best.agreement[0]))


def twin_agreement(saved: Floats, static_saved: Floats, static_agreement: Floats) -> Floats:
    """(R,) the same for R draws of documents; 1 where full depth is cheaper, whose agreement is 1.

    Args:
        saved: (R,).
        static_saved: (R, E + 1).
        static_agreement: (R, E + 1).
    """
    reachable = saved.clip(static_saved.min(1), static_saved.max(1))
    return _best(reachable, static_saved, static_agreement).agreement


class _Best(NamedTuple):
    pair: NDArray[np.int64]
    share: Floats
    agreement: Floats


def _best(saved: Floats, points: Floats, heights: Floats) -> _Best:
    """Over all pairs of depths that enclose ``saved``, the one of highest agreement."""
    depths = points.shape[1]
    more, less = points[:, :, None], points[:, None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (more - saved[:, None, None]) / (more - less)
    share = np.where(more == less, np.where(more == saved[:, None, None], 0.0, np.nan), share)
    ordered = np.triu(np.ones((depths, depths), dtype=bool))  # every pair once, the shallower first
    inside = ordered & (share >= -_ROUNDING) & (share <= 1 + _ROUNDING)
    share = share.clip(0, 1)
    mixed = (1 - share) * heights[:, :, None] + share * heights[:, None, :]
    flat = np.where(inside, mixed, -np.inf).reshape(-1, depths * depths)
    pair = flat.argmax(1)
    rows = np.arange(len(saved))
    return _Best(pair, share.reshape(flat.shape)[rows, pair], flat[rows, pair])


def _all(states: States, counted: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    return np.ones(len(states.token), dtype=bool) if counted is None else counted
