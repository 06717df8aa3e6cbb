"""From the decoding loop's steps to the tokens that a display shows."""

from __future__ import annotations

from typing import NamedTuple

from dynamax_lm.common.token_pieces import Decode, TokenPieces, split
from dynamax_lm.engine.requests import Progress


class StreamedToken(NamedTuple):
    """A token of the answer, when it is final.

    Attributes:
        piece: the text that it adds.
        layers_used: layers run for it, 1..L.
        confidence: at its exit, or at the last exit checked; ``None`` where none was.
        drafted: of a lossless answer, whether an exit drafted it.
        rejected: text that was drafted before it and rejected; empty for none.
    """

    piece: str
    layers_used: int
    confidence: float | None
    drafted: bool = False
    rejected: str = ""


class TokenStream:
    """The new tokens of one answer, step by step.

    Args:
        decode: from token ids to text.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._pieces = TokenPieces(decode)
        self._tokens, self._rounds = 0, 0

    def step(self, row: Progress) -> list[StreamedToken]:
        """The tokens that ``row`` has in addition to those of the previous step."""
        drafted: set[int] = set()
        rejected: dict[int, str] = {}
        for one in row.rounds[self._rounds :]:
            after = one.start + one.accepted
            drafted.update(range(one.start, after))
            if one.drafted[one.accepted :]:
                rejected[after] = "".join(split(one.drafted[one.accepted :], self._decode))
        new = [
            StreamedToken(
                self._pieces.add(row.tokens[place]),
                row.layers_used[place],
                row.confidence[place],
                place in drafted,
                rejected.get(place, ""),
            )
            for place in range(self._tokens, len(row.tokens))
        ]
        self._tokens, self._rounds = len(row.tokens), len(row.rounds)
        return new

    def finish(self) -> str:
        """Text left after the last token: an unfinished character."""
        return self._pieces.finish()
