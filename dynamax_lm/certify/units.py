"""The seeded random order and sample of units: documents, or groups that share a passage.

A test for independent losses takes one loss for each unit, not for each document where documents
share a passage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONTENTS = "contents"
"""Documents are grouped by shared contents, not by a given field."""


class Drawn(NamedTuple):
    """Documents that a certification uses.

    Attributes:
        documents: indices among those given, ascending.
        unit_of: for each of them the number of its unit, in the order of the test.
    """

    documents: tuple[int, ...]
    unit_of: tuple[int, ...]


def draw(groups: Sequence[Sequence[int]], limit: float | None, seed: int) -> Drawn:
    """Units in random order, whole, until ``limit`` documents are drawn.

    Files are often sorted, so that the first documents differ from the others, and the bets of the
    test adapt along the order. The last unit is truncated to ``limit``.

    Args:
        groups: documents of each unit.
        limit: number of documents, or a share of them if below 1; all if ``None``.
        seed: of the order.
    """
    total = sum(map(len, groups))
    most = total
    if limit is not None:
        most = min(total, -int(-total * limit // 1) if limit < 1 else int(limit))
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    pairs: list[tuple[int, int]] = []
    for number, place in enumerate(order):
        members = groups[place][: most - len(pairs)]
        pairs.extend((document, number) for document in members)
        if len(pairs) == most:
            break
    pairs.sort()
    return Drawn(
        documents=tuple(document for document, _ in pairs),
        unit_of=tuple(number for _, number in pairs),
    )
