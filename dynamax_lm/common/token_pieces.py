"""An answer's text divided among its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

_UNFINISHED = "\ufffd"
_LONGEST = 8
"""Largest number of tokens of one character; beyond it is shown as invalid."""


def split(ids: Sequence[int], decode: Decode | None) -> list[str]:
    """The answer's text by token; joined, it is the text of the whole.

    A character of several tokens is assigned to the last of them.

    Args:
        ids: the answer's tokens.
        decode: from ids to text; ``None`` shows the ids.
    """
    if decode is None:
        return [f"⟨{number}⟩" for number in ids]
    pieces, start, before = [], 0, ""
    for end in range(1, len(ids) + 1):
        text = decode(list(ids[start:end]))
        if text.endswith(_UNFINISHED) and end < len(ids) and end - start < _LONGEST:
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        # One token of context is kept: some tokenizers drop a leading space.
        start = end - 1
        before = decode(list(ids[start:end]))
        if before.endswith(_UNFINISHED):
            start, before = end, ""
    return pieces
