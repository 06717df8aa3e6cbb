"""Documents that share contents: identity by identifying fields, and groups by passage.

Questions about one passage are not independent documents. What statistics take in their place is
one value for each group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dynamax_lm.common.intervals import Bounds, Floats

_PASSAGES = ("story", "passage", "context", "ctx", "text", "document", "article")
"""Fields that several documents may share, by their names in common data sets."""

_TELLING = (
    *("question", *_PASSAGES, "query", "prompt", "sentence", "input", "goal"),
    "problem",
)
"""Fields with the question or text of a document."""


def contents(doc: Mapping[str, Any]) -> frozenset[str]:
    """Hashes of a document's identifying fields; of all of it, where it has none.

    Two documents overlap where they share one: two questions about one story do.
    """
    texts = _told(doc) or [json.dumps(doc, sort_keys=True, default=str)]
    return frozenset(map(hashed, texts))


def shared(doc: Mapping[str, Any]) -> frozenset[str]:
    """Hashes that group documents: documents with a common hash are one unit.

    These are of its passage; of a document without one, of its identifying fields. Two passages
    with the same question remain two units.
    """
    passages = [plain(doc[name]) for name in _PASSAGES if isinstance(doc.get(name), str)]
    told = [text for text in passages if text]
    return frozenset(map(hashed, told)) or contents(doc)


def telling(doc: Mapping[str, Any]) -> list[str]:
    """The texts of a document's identifying fields."""
    return [text for text in map(doc.get, _TELLING) if isinstance(text, str)]


def _told(doc: Mapping[str, Any]) -> list[str]:
    return [text for text in map(plain, telling(doc)) if text]


def plain(text: str) -> str:
    """``text`` without case and spacing."""
    return " ".join(text.casefold().split())


def hashed(text: str) -> str:
    """SHA-256 of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


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


class Units(NamedTuple):
    """Independent units of documents.

    Attributes:
        unit_of: (n,) of each document, the number of its unit.
        sizes: (U,) documents of each unit.
    """

    unit_of: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]]) -> Units:
        """From the documents of each unit, as :func:`group` returns them."""
        unit_of = {place: unit for unit, members in enumerate(groups) for place in members}
        return cls(tuple(unit_of[place] for place in range(len(unit_of))), tuple(map(len, groups)))

    @classmethod
    def by_keys(cls, keys: Sequence[Collection[str]]) -> Units | None:
        """Of documents with these keys, as :func:`group` takes them; ``None`` if none is shared."""
        groups = group(keys)
        return cls.of(groups) if len(groups) < len(keys) else None

    def values(self, values: Sequence[float] | Floats) -> Floats:
        """(..., U) one value for each unit, whose mean is that of ``values`` (..., n).

        A unit counts by its documents: its value is their sum, divided by the mean size of a unit.
        """
        given, unit_of = np.asarray(values, dtype=np.float64), np.asarray(self.unit_of)
        scale = len(self.sizes) / len(unit_of)
        summed = np.apply_along_axis(lambda one: np.bincount(unit_of, one), -1, given)
        return np.asarray(summed * scale, dtype=np.float64)

    def bounds(self, bounds: Bounds) -> Bounds:
        """Of a unit's value, from those of a document's."""
        scale = len(self.sizes) / len(self.unit_of)
        ends = [end * size * scale for end in bounds for size in (min(self.sizes), max(self.sizes))]
        return Bounds(min(ends), max(ends))
