"""How often certificates are wrong: documents that share a passage, and files that are sorted.

    python -m benchmarks.validity.certificates

Populations whose true risk lies a little above the asked one are certified again and again; the
share that certifies is the share of wrong certificates, which may be ``delta`` at most. "Before"
counts each document as independent, as the first of the file; "after" is `dynamax_lm.certify`'s own
grouping, draw, minimum and tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamax_lm.certify.units import draw
from dynamax_lm.common.certificate import LEAST_UNITS, p_value_of, unit_means
from dynamax_lm.common.passages import group

RISK, DELTA = 0.05, 0.05
Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Passages:
    """Questions about passages; a passage's questions go wrong together.

    Each passage has a rate of loss from a beta distribution of mean ``risk``, so that the true risk
    is exactly that.

    Attributes:
        passages: how many.
        questions: of each.
        risk: the true one.
        correlation: of the rates within a passage, in (0, 1): the beta distribution's
            variance as a share of the largest that its mean allows.
        tokens: of an answer, each lost at the passage's rate; 1 makes losses 0 or 1.
    """

    passages: int
    questions: int
    risk: float
    correlation: float
    tokens: int

    def losses(self, rng: np.random.Generator) -> Losses:
        """(passages * questions,), passage after passage."""
        strength = 1 / self.correlation - 1
        rate = rng.beta(self.risk * strength, (1 - self.risk) * strength, self.passages)
        each = np.repeat(rate, self.questions)
        return rng.binomial(self.tokens, each) / self.tokens

    def keys(self) -> list[set[str]]:
        """What each document shares with others."""
        return [{str(n)} for n in range(self.passages) for _ in range(self.questions)]


class Wrong(NamedTuple):
    """Shares of draws that certify a risk which is too high.

    Attributes:
        before: every document counted as independent, in a random order.
        after: units, of which there must be enough.
        unchecked: units, however few.
    """

    before: float
    after: float
    unchecked: float


def clustered(population: Passages, draws: int, seed: int = 0) -> Wrong:
    """Certify one population ``draws`` times at ``RISK`` and ``DELTA``."""
    rng = np.random.default_rng(seed)
    groups = group(population.keys())
    whole = population.tokens == 1
    one_each = "binomial" if whole else "betting"
    several = one_each if population.questions == 1 else "betting"
    counts = np.zeros(3, dtype=np.int64)
    for number in range(draws):
        losses = population.losses(rng)
        before = p_value_of(one_each, rng.permutation(losses), RISK, DELTA) <= DELTA
        drawn = draw(groups, None, number)
        units = unit_means(losses[list(drawn.documents)], np.array(drawn.unit_of))
        passed = p_value_of(several, units, RISK, DELTA) <= DELTA
        counts += [before, passed and units.size >= LEAST_UNITS, passed]
    return Wrong(*(counts / draws).tolist())


def sorted_file(draws: int, seed: int = 0, *, total: int = 2000, limit: int = 400) -> Wrong:
    """A file with its easy documents in front, cut to ``limit``: its first, or a random draw.

    The risk over all its documents is 0.055: 0.11 times the place in the file, from 0 to 1.
    """
    rng = np.random.default_rng(seed)
    rate = 0.11 * (np.arange(total) + 0.5) / total
    alone = [[place] for place in range(total)]
    counts = np.zeros(3, dtype=np.int64)
    for number in range(draws):
        losses = rng.binomial(8, rate) / 8
        first = rng.permutation(losses[:limit])
        drawn = draw(alone, limit, number)
        units = unit_means(losses[list(drawn.documents)], np.array(drawn.unit_of))
        before, after = (p_value_of("betting", one, RISK, DELTA) <= DELTA for one in (first, units))
        counts += [before, after, after]
    return Wrong(*(counts / draws).tolist())


POPULATIONS: tuple[Passages, ...] = (
    *(Passages(15, 20, 0.055, correlation, 1) for correlation in (0.02, 0.05, 0.1, 0.3)),
    *(Passages(15, 20, 0.055, correlation, 8) for correlation in (0.02, 0.05, 0.1, 0.3)),
    *(Passages(300, 20, 0.055, correlation, 8) for correlation in (0.05, 0.3)),
    *(Passages(300, 20, 0.02, correlation, 8) for correlation in (0.05, 0.3)),
    Passages(300, 1, 0.055, 0.1, 8),
)


def table(draws: int) -> Iterator[str]:
    """The rows of a Markdown table."""
    yield "| population | true risk | certified before | after | units, no minimum of 300 |"
    yield "|---|---:|---:|---:|---:|"
    for one in POPULATIONS:
        kind = "0 or 1" if one.tokens == 1 else f"of {one.tokens} tokens"
        name = f"{one.passages} x {one.questions}, correlation {one.correlation:g}, losses {kind}"
        yield _row(name, one.risk, clustered(one, draws))
    yield _row("2,000 sorted by difficulty, limit 400", 0.055, sorted_file(draws))


def _row(name: str, risk: float, found: Wrong) -> str:
    shares = " | ".join(f"{share:.1%}" for share in found)
    return f"| {name} | {risk:g} | {shares} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validity.certificates")
    parser.add_argument("--draws", type=int, default=2000, help="certifications of each row")
    for line in table(parser.parse_args(arguments).draws):
        print(line, flush=True)


if __name__ == "__main__":
    main()
