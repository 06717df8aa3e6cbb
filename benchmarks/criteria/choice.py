"""Thresholds by two-fold cross-fitting over documents, with bootstrap intervals.

What is estimated: a rule at a target has *one* threshold in the population of documents, the one
that saves most among those that agree on the target at least, and its saving and its agreement
there are the quantities that the intervals are for. A sample has neither the threshold nor the
means. A threshold is chosen on each half and evaluated on the other; in every draw of the bootstrap
the documents of each half are drawn anew, and *the thresholds are chosen anew from them*. Intervals
that keep the thresholds leave out most of the error.

Glossary: M documents, T thresholds, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.criteria.accounts import Floats, Grid, PerDocument

FOLDS = 2
DRAWS = 4000
LEVEL = 0.95
Interval = tuple[float, float]
_ENOUGH = 1e-12
_TAILS = 0.4


class Weights(NamedTuple):
    """Documents as they were, then R draws of each fold with replacement.

    Attributes:
        fold: (M,) of each document.
        counts: (1 + R, M) how often each was drawn; ones in the first row.
    """

    fold: NDArray[np.int64]
    counts: Floats

    @classmethod
    def draw(cls, fold: NDArray[np.int64], draws: int, seed: int) -> Weights:
        """The same draws for every rule, so that rules can be compared draw by draw."""
        generator = np.random.default_rng(seed)
        counts = np.ones((1 + draws, len(fold)))
        for number in range(FOLDS):
            mine = np.flatnonzero(fold == number)
            even = np.full(len(mine), 1 / len(mine))
            counts[1:, mine] = generator.multinomial(len(mine), even, size=draws)
        return cls(fold, counts)

    def means(self, values: Floats) -> Floats:
        """(1 + R, ...) means over documents of ``values`` (..., M)."""
        found: Floats = self.counts @ values.T / len(self.fold)
        return found


class Judged(NamedTuple):
    """A rule at a target: row 0 is the estimate, the others are the draws of the bootstrap.

    Attributes:
        thresholds: the one at which each fold is evaluated, chosen on the other.
        saved: (1 + R,) cross-fitted means.
        agreement: (1 + R,).
        layers: (1 + R,).
    """

    thresholds: tuple[float, float]
    saved: Floats
    agreement: Floats
    layers: Floats


def folds(tasks: Sequence[str], seed: int) -> NDArray[np.int64]:
    """(M,) the fold of each document; every task is spread evenly."""
    generator = np.random.default_rng(seed)
    found = np.zeros(len(tasks), dtype=np.int64)
    for task in sorted(set(tasks)):
        members = np.flatnonzero(np.array(tasks) == task)
        generator.shuffle(members)
        found[members] = np.arange(len(members)) % FOLDS
    return found


class Chosen(NamedTuple):
    """A position on the grid of thresholds.

    Attributes:
        number: (...,) of the threshold below.
        share: (...,) of documents run at the next one, in [0, 1).
    """

    number: NDArray[np.int64]
    share: Floats

    def of(self, values: Floats) -> Floats:
        """(...,) of ``values`` (..., T), between its two neighbours."""
        above = np.minimum(self.number + 1, values.shape[-1] - 1)
        low, high = (
            np.take_along_axis(values, at[..., None], -1)[..., 0] for at in (self.number, above)
        )
        found: Floats = (1 - self.share) * low + self.share * high
        return found


def choose(saved: Floats, agreement: Floats, target: float) -> Chosen:
    """The position that saves most with an agreement of at least ``target``.

    Between two thresholds of the grid numbers are linear: a rule that draws one of the two for each
    document has these numbers. So the target is met exactly where the agreement crosses it, and no
    estimate is rounded to the next threshold. At threshold 1 no token exits and the agreement is 1,
    so that a grid with 1 always has an answer. Of equal ones the highest is taken.

    Args:
        saved: (..., T) means.
        agreement: (..., T) means.
        target: least agreement.

    Raises:
        ValueError: no threshold of the grid reaches the target.
    """
    enough = agreement >= target - _ENOUGH
    if not enough.any(-1).all():
        raise ValueError(f"no threshold agrees on {target}; put 1 into the grid")
    low, high = agreement[..., :-1], agreement[..., 1:]
    crosses = enough[..., :-1] != enough[..., 1:]
    share = np.where(crosses, (target - low) / np.where(crosses, high - low, 1.0), 0.0).clip(0, 1)
    between = np.where(crosses, (1 - share) * saved[..., :-1] + share * saved[..., 1:], -np.inf)
    places = np.concatenate([between, np.where(enough, saved, -np.inf)], axis=-1)
    last = places.shape[-1] - 1
    best = last - places[..., ::-1].argmax(-1)
    segments = between.shape[-1]
    on_segment = best < segments
    number = np.where(on_segment, best, best - segments)
    padded = np.concatenate([share, np.zeros((*share.shape[:-1], 1))], axis=-1)
    taken = np.take_along_axis(padded, np.minimum(number, segments)[..., None], -1)[..., 0]
    return Chosen(number, np.where(on_segment, taken, 0.0))


def cross_fit(grid: Grid, weights: Weights, target: float) -> Judged:
    """Two-fold cross-fitting in every draw.

    Args:
        grid: every document's numbers at every threshold.
        weights: documents and draws.
        target: least agreement.
    """
    return judge(grid.thresholds, fold_means(grid.numbers, weights), weights, target)


def judge(
    thresholds: Floats, means: Sequence[PerDocument], weights: Weights, target: float
) -> Judged:
    """:func:`cross_fit` from the means of each fold, which are the same for every target."""
    found: list[float] = []
    judged = [np.zeros(len(weights.counts)) for _ in PerDocument._fields]
    for number, mine in enumerate(means):
        other = means[1 - number]
        chosen = choose(other.saved, other.agreement, target)
        first = Chosen(chosen.number[:1], chosen.share[:1])
        found.append(float(first.of(thresholds[None])[0]))
        share = float((weights.fold == number).mean())
        for total, values in zip(judged, mine, strict=True):
            total += share * chosen.of(values)
    return Judged((found[0], found[1]), *judged)


def fold_means(numbers: PerDocument, weights: Weights) -> tuple[PerDocument, PerDocument]:
    """(1 + R, T) means of each fold, in every draw."""
    return _fold_means(numbers, weights, 0), _fold_means(numbers, weights, 1)


def _fold_means(numbers: PerDocument, weights: Weights, fold: int) -> PerDocument:
    """(1 + R, T) each."""
    mine = np.flatnonzero(weights.fold == fold)
    counts = weights.counts[:, mine] / len(mine)
    return PerDocument(*(counts @ column[:, mine].T for column in numbers))


def population_value(grid: Grid, target: float) -> tuple[float, float, float]:
    """Saved, agreement and layers at the one threshold of all documents: the intervals' target."""
    saved, agreement, layers = (column.mean(1) for column in grid.numbers)
    chosen = choose(saved, agreement, target)
    return float(chosen.of(saved)), float(chosen.of(agreement)), float(chosen.of(layers))


def interval(draws: Floats, level: float = LEVEL) -> Interval:
    """The percentile interval of a bootstrap and its mirror image at the estimate, together.

    Where a curve of thresholds ends near the target, the draws lean to one side and a percentile
    interval misses on the other; its mirror image ("basic" interval) misses on neither. Both are
    taken at ``1 - 0.4 (1 - level)``, wide enough for a coverage of ``level`` in all the populations
    of ``benchmarks.validity.criteria``; most intervals cover more.

    Args:
        draws: (1 + R,) the estimate and the draws.
        level: least coverage.
    """
    tail = _TAILS * (1 - level) / 2
    low, high = np.quantile(draws[1:], [tail, 1 - tail])
    own = draws[0]
    return float(min(low, 2 * own - high)), float(max(high, 2 * own - low))
