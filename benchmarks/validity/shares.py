"""How often intervals of shares of tokens cover the true share: a document's tokens are alike.

    python -m benchmarks.validity.shares [--draws 4000]

Documents have 1 to 24 tokens. A document's own share varies about the true one by a beta
distribution; its likeness is the correlation of two of its tokens. Wilson's interval of as many
independent tokens, which the reliability pictures had before, is tried on the same draws.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import stats

from dynamax_lm.common.clustered_share import clustered_share

LIKENESSES = (0.0, 0.1, 0.3, 0.8)
SHARES = (0.5, 0.8, 0.95)
DOCUMENTS = (6, 10, 20, 40, 200)


class Covered(NamedTuple):
    """Shares of draws, in [0, 1], whose interval contains the true share.

    Attributes:
        ours: intervals for independent documents.
        tokens: for independent tokens.
    """

    ours: float
    tokens: float


def coverage(documents: int, share: float, likeness: float, draws: int) -> Covered:
    """Draw samples of ``documents`` documents, and count.

    Args:
        documents: in a sample, at least 2.
        share: the true one, in (0, 1).
        likeness: correlation of a document's tokens, in [0, 1).
        draws: samples.
    """
    rng = np.random.default_rng([documents, int(share * 100), int(likeness * 100)])
    total = 1 / likeness - 1 if likeness else None
    ours = tokens = 0
    for _ in range(draws):
        lengths = rng.integers(1, 25, documents)
        own = np.full(documents, share)
        if total is not None:
            own = rng.beta(share * total, (1 - share) * total, documents)
        document = np.repeat(np.arange(documents), lengths)
        right = rng.random(len(document)) < own[document]
        low, high = clustered_share(right, document)
        ours += low <= share <= high
        alone = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
        tokens += alone.low <= share <= alone.high
    return Covered(ours / draws, tokens / draws)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args(arguments).draws
    print("| documents | likeness | lowest coverage over shares | of independent tokens |")
    print("|---|---|---|---|")
    for documents, likeness in product(DOCUMENTS, LIKENESSES):
        found = [coverage(documents, share, likeness, draws) for share in SHARES]
        ours, tokens = min(one.ours for one in found), min(one.tokens for one in found)
        print(f"| {documents} | {likeness} | {ours:.1%} | {tokens:.1%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
