"""How a confidence that reads logits looks at the vocabulary, and what a look costs.

The exact projection multiplies a hidden state by all V rows of the unembedding. A cheap look
computes a confidence from fewer products; a token that exits is still emitted from the exact
projection, which is then billed with the emission. This module has names and costs;
``core.cheap_look`` computes the logits.

Sources: a low-rank preview of the softmax's weight, refined by the exact logits of its best tokens,
is SVD-softmax (Shim et al., NeurIPS 2017); a list of candidates is how the softmax is restricted in
machine translation (Jean et al., arXiv 1412.2007), here drawn for each token by its first exit.

Glossary: D width, V vocabulary, R rank, M tokens of a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PARTS = ("rank", "shortlist", "refine")
_PART = re.compile(r"(\w+):(\d{1,9})")
_BAR = "|"


@dataclass(frozen=True, slots=True)
class Look:
    """One way of looking; without arguments the exact projection.

    Attributes:
        rank: R, of the factors in place of the unembedding; 0 for the unembedding itself.
        shortlist: M, tokens whose exact logits are the only ones read; 0 for all tokens. They are
            the most likely tokens of the first exit, as this sees them through ``rank``.
        refine: M, tokens most likely through ``rank`` whose logits are then the exact ones.
    """

    rank: int = 0
    shortlist: int = 0
    refine: int = 0

    def __post_init__(self) -> None:
        if self.refine and (self.shortlist or not self.rank):
            raise ValueError("refine:M refines rank:R, without a shortlist")

    @property
    def name(self) -> str:
        """As ``look`` takes it: ``full``, or its parts joined by ``+``, such as ``rank:64``."""
        parts = [f"{part}:{getattr(self, part)}" for part in _PARTS if getattr(self, part)]
        return "+".join(parts) or "full"

    @property
    def least_exits(self) -> int:
        """Exits below which it is no other than the exact projection: a list is read later."""
        return 2 if self.shortlist and not self.rank else 1

    def exact_at(self, exit: int) -> bool:
        """Whether the check at an exit, from 0, computes the exact projection."""
        return not self.rank and (not self.shortlist or exit == 0)

    def flops(self, exit: int, width: int, vocabulary: int) -> int:
        """The products of one check of one token, without its norm.

        Args:
            exit: which exit is checked, from 0.
            width: D.
            vocabulary: V.
        """
        listed = 2 * (self.shortlist + self.refine) * width
        if self.exact_at(exit):
            return 2 * width * vocabulary
        if self.shortlist and exit:
            return listed
        return 2 * self.rank * (width + vocabulary) + listed


FULL = Look()
"""The exact projection."""


def read_look(text: str) -> Look:
    """The look of a name.

    Raises:
        ValueError: no look has that name.
    """
    if text == FULL.name:
        return FULL
    found: dict[str, int] = {}
    for piece in text.split("+"):
        match = _PART.fullmatch(piece.strip())
        if match is None or match[1] not in _PARTS or match[1] in found or int(match[2]) < 1:
            raise ValueError(
                f"{text!r} is no look; give full, rank:R, rank:R+refine:M, shortlist:M or "
                f"rank:R+shortlist:M"
            )
        found[match[1]] = int(match[2])
    return Look(**found)


def looking(measure: str, look: str | None) -> str:
    """The name of a measure under a look, such as ``top_prob|rank:64``; under ``full`` its own."""
    return measure if look in {None, FULL.name} else f"{measure}{_BAR}{look}"


def split_look(measure: str) -> tuple[str, Look]:
    """The measure and the look of a name that :func:`looking` made.

    Raises:
        ValueError: no look has the name behind the bar.
    """
    name, bar, look = measure.rpartition(_BAR)
    return (name, read_look(look)) if bar else (measure, FULL)
