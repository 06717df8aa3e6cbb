"""An answer's text divided among its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

_UNFINISHED = "\ufffd"
_LONGEST = 8
"""Largest number of tokens of one character; beyond it is shown as invalid."""


class TokenPieces:
    """The pieces of an answer whose tokens arrive one at a time.

    Args:
        decode: from ids to text; ``None`` shows the ids.
    """

    def __init__(self, decode: Decode | None) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._before = ""
        self._pending = False

    def add(self, token: int) -> str:
        """The text that ``token`` adds; empty inside a character of several tokens."""
        if self._decode is None:
            return f"⟨{token}⟩"
        self._ids.append(token)
        text = self._decode(self._ids)
        self._pending = text.endswith(_UNFINISHED) and len(self._ids) < _LONGEST
        if self._pending:
            return ""
        return self._take(text)

    def finish(self) -> str:
        """What is left after the last token: an unfinished character."""
        return self._take(self._decode(self._ids)) if self._decode and self._pending else ""

    def _take(self, text: str) -> str:
        piece = text[len(self._before) :]
        # One token of context is kept: some tokenizers drop a leading space.
        assert self._decode is not None
        self._ids, self._pending = self._ids[-1:], False
        self._before = self._decode(self._ids)
        if self._before.endswith(_UNFINISHED):
            self._ids, self._before = [], ""
        return piece


def split(ids: Sequence[int], decode: Decode | None) -> list[str]:
    """The answer's text by token; joined, it is the text of the whole.

    A character of several tokens is assigned to the last of them.

    Args:
        ids: the answer's tokens.
        decode: from ids to text; ``None`` shows the ids.
    """
    stream = TokenPieces(decode)
    pieces = [stream.add(number) for number in ids]
    if pieces:
        pieces[-1] += stream.finish()
    return pieces
