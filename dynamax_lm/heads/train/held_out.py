"""The held-out split of training documents, by group.

Documents about one passage or one question are on the same side, whatever their source and order.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from dynamax_lm.heads.train.documents import Document

_SPLIT_PARTS = 10_000
_PASSAGE = 200
"""Least number of characters of a paragraph that counts as the passage of a prompt."""

Part = Literal["train", "calibrate", "report"]
"""The split of a document: training, calibration, or the card's figures."""


def group_of(document: Document) -> str:
    """The group of a document, which is on one side of the split, in lower case.

    It is the group given in the document; else the longest paragraph of its prompt, if that is long
    enough to be a passage (of several questions); else the prompt's last paragraph, which is the
    question; else the text itself. Paragraphs end at blank lines; spaces are normalised.
    """
    if document.group:
        return document.group
    paragraphs = [" ".join(one.lower().split()) for one in re.split(r"\n\s*\n", document.prompt)]
    paragraphs = [one for one in paragraphs if one]
    if not paragraphs:
        return " ".join((document.prompt + document.answer).lower().split())
    longest = max(paragraphs, key=len)
    return longest if len(longest) >= _PASSAGE else paragraphs[-1]


def part_of(document: Document, held_out: float) -> Part:
    """The split of ``document``, a function of its group alone.

    Args:
        document: any.
        held_out: share of held-out groups, in [0, 1]; half of them are for calibration, the other
            half for the card's figures.
    """
    digest = hashlib.sha256(group_of(document).encode()).digest()
    place = int.from_bytes(digest[:8], "big") % _SPLIT_PARTS
    if place >= held_out * _SPLIT_PARTS:
        return "train"
    return "calibrate" if place < held_out / 2 * _SPLIT_PARTS else "report"
