"""Net savings of an oracle policy with given exits, by the ledger.

Under the oracle policy a token exits at the first exit that emits full depth's token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamax_lm.common.intervals import Bounds
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.headroom.probe import Ranks

ExitDecisions = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tokens:
    """Answer tokens of many documents, end to end.

    Attributes:
        candidates: evaluated exit layers, ascending.
        ranks: (N, E) of each exit's token.
        positions: (N,) of each token in its sequence.
        owners: (N,) number of each token's document, ascending from 0 without gaps.
    """

    candidates: tuple[int, ...]
    ranks: Ranks
    positions: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]

    def per_document(self, values: npt.NDArray[np.float64]) -> Floats:
        """Sums over each document's tokens: (N, ...) to (documents, ...)."""
        starts = np.flatnonzero(np.diff(self.owners, prepend=-1))
        return np.asarray(np.add.reduceat(values, starts, axis=0), dtype=np.float64)

    def means(self, values: npt.NDArray[np.float64]) -> Floats:
        """Means over each document's tokens."""
        counts = self.per_document(np.ones(len(self.owners)))
        sums = self.per_document(values)
        return sums / counts.reshape(-1, *[1] * (sums.ndim - 1))

    def oracle_depths(self, exits: Sequence[int], layers: int) -> ExitDecisions:
        """(N,) the first of ``exits`` that has full depth's token, or ``layers``."""
        columns = [self.candidates.index(layer) for layer in exits]
        agrees = np.column_stack([self.ranks[:, columns] == 1, np.ones(len(self.owners), bool)])
        depths: ExitDecisions = np.array([*exits, layers])[agrees.argmax(axis=1)].astype(np.int64)
        return depths


class Prices:
    """Bills many tokens at once, as the ledger bills each.

    Args:
        costs: the architecture.
        exits: ascending.
        confidence: the measure that each exit's check computes.
        skipped_state: the skipped-state policy.
    """

    def __init__(
        self, costs: DecoderCosts, exits: Sequence[int], confidence: str, skipped_state: str
    ) -> None:
        ledger = Ledger(
            costs, exit_layers=exits, confidence=confidence, skipped_state=skipped_state
        )
        self._costs = costs
        self._depths = np.asarray([*exits, costs.n_layers])
        # A token's bill is its layers, and a sum that depends on its depth alone.
        self._beside = np.zeros(costs.n_layers + 1)
        for depth in (*exits, costs.n_layers):
            bill = ledger.answer(0, [depth])
            self._beside[depth] = bill.spent - bill.layers
        self._full_beside = bill.full_depth - costs.layers(0, 0, costs.n_layers)

    @property
    def bounds(self) -> Bounds:
        """Bounds on any document's share.

        A layer costs least at position 0. As the context grows, a token's share moves from its
        value there to the share of its layers alone, and turns at most where a window is full:
        windows are powers of 2.
        """
        shares = []
        for position in (0, *(1 << power for power in range(41))):
            layers = self._layers(position)
            spent = layers + self._beside[self._depths]
            shares.append(1.0 - spent / (layers[-1] + self._full_beside))
        shares.append(1.0 - layers / layers[-1])
        return Bounds(float(np.min(shares)), float(np.max(shares)))

    def _layers(self, position: int) -> Floats:
        """(E + 1,) FLOPs of the layers below each exit and of all, for the token at a position."""
        found = [self._costs.layers(position, 0, int(depth)) for depth in self._depths]
        return np.asarray(found, dtype=np.float64)

    def saved(self, tokens: Tokens, depths: ExitDecisions) -> Floats:
        """(documents,) net share of each document's full-depth FLOPs."""
        seen, place = np.unique(tokens.positions, return_inverse=True)
        layers = np.stack([self._layers(int(position)) for position in seen])
        columns = np.searchsorted(self._depths, depths)
        spent = tokens.per_document(layers[place, columns] + self._beside[depths])
        full = tokens.per_document(layers[place, -1] + self._full_beside)
        return 1.0 - spent / full


def choose_exits(
    tokens: Tokens, costs: DecoderCosts, confidence: str, skipped_state: str, most: int
) -> tuple[int, ...]:
    """Exits with the largest saving under the oracle policy, by greedy forward selection.

    The saving is then reported on the same documents: an upper bound may be optimistic.

    Args:
        tokens: probed answers.
        costs: the architecture.
        confidence: the measure that each exit's check computes.
        skipped_state: the skipped-state policy.
        most: largest number of exits.

    Returns:
        Ascending; empty where no exit saves more than its check costs.
    """
    chosen: tuple[int, ...] = ()
    best = 0.0
    while len(chosen) < most:
        gains = {}
        for layer in set(tokens.candidates) - set(chosen):
            exits = tuple(sorted({*chosen, layer}))
            prices = Prices(costs, exits, confidence, skipped_state)
            depths = tokens.oracle_depths(exits, costs.n_layers)
            gains[exits] = float(prices.saved(tokens, depths).mean())
        exits, saving = max(gains.items(), key=lambda pair: pair[1], default=(chosen, best))
        if saving <= best:
            break
        chosen, best = exits, saving
    return chosen
