"""Grouping of documents into independent units, and their seeded random order and sample.

A test for independent losses takes one loss for each unit, not for each document where documents
share a passage.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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


def group(keys: Sequence[Collection[str]]) -> list[list[int]]:
    """Documents that share a key, directly or through others, in the order of their first.

    Args:
        keys: for each document, at least one.

    Returns:
        Indices of documents, each once.
    """
    leader = list(range(len(keys)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    first: dict[str, int] = {}
    for place, own in enumerate(keys):
        for key in own:
            one, other = sorted((find(place), find(first.setdefault(key, place))))
            leader[other] = one
    groups: dict[int, list[int]] = {}
    for place in range(len(keys)):
        groups.setdefault(find(place), []).append(place)
    return list(groups.values())


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
