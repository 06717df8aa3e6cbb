"""Numbers of generated texts: all, empty and distinct."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Texts(NamedTuple):
    """Numbers of generated texts: all, empty and distinct.

    To pool parts of one task use `of` with all their texts; `pooled` counts a text of both parts
    twice.

    Attributes:
        answers: generated answers, one per request and repeat.
        empty: those of white space alone.
        distinct: different ones, leading and trailing white space aside; empty texts count as one.
    """

    answers: int = 0
    empty: int = 0
    distinct: int = 0

    @classmethod
    def of(cls, keys: Iterable[str]) -> Texts:
        """The counts of texts given by their `text_key`."""
        counted = Counter(keys)
        return cls(counted.total(), counted[""], len(counted))

    @property
    def mostly_empty(self) -> bool:
        """Whether more than half are empty: such answers support no conclusion."""
        return 2 * self.empty > self.answers

    @property
    def few(self) -> bool:
        """Whether fewer than half are distinct: agreement with full depth is then easy to reach."""
        return 2 * self.distinct < self.answers

    def pooled(self, other: Texts) -> Texts:
        """Sums of both; distinct texts are counted within each part."""
        return Texts(*(a + b for a, b in zip(self, other, strict=True)))


def text_key(text: str) -> str:
    """A short hash of a text; empty for one of white space alone."""
    bare = text.strip()
    return hashlib.sha256(bare.encode("utf-8", "surrogatepass")).hexdigest()[:16] if bare else ""
