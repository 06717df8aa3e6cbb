"""Stop sequences by the rules of lm-eval's ``hf`` model, one row at a time.

This module has the stop rule, and the number of an answer's tokens that make its truncated text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Decode = Callable[[list[int]], str]
"""Token ids to text, without special tokens."""


_BROKEN = "\N{REPLACEMENT CHARACTER}"


class StopRule:
    """Ends an answer at an end-of-sequence id or where a stop sequence appears in its text.

    Like lm-eval's ``MultiTokenEOSCriteria`` it searches for a stop sequence in the decoded last few
    tokens, but in as many as the sequence can take: one for each of its bytes, since it may be
    tokenised differently, and two more. A character of several tokens that these cut apart can
    spoil the bytes after it (byte fallback decodes a run of bytes as a whole), so that more tokens
    are decoded where the text begins with a broken character.

    Args:
        tokenizer: decodes tokens.
        until: stop sequences; empty ones are ignored.
        end_ids: end-of-sequence ids.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._stops = [
            (
                stop,
                max(len(stop.encode()), len(tokenizer.encode(stop, add_special_tokens=False))) + 2,
            )
            for stop in until
            if stop
        ]

    def __call__(self, answer: Sequence[int]) -> bool:
        """Whether ``answer`` ends with its last token."""
        if not answer:
            return False
        if answer[-1] in self._end_ids:
            return True
        texts: dict[int, list[str]] = {}
        for stop, tokens in self._stops:
            if tokens not in texts:
                texts[tokens] = list(self._ends(answer, tokens))
            if any(stop in text for text in texts[tokens]):
                return True
        return False

    def _ends(self, answer: Sequence[int], tokens: int) -> Iterator[str]:
        """The text of the last tokens, and of up to three more to complete a character."""
        for count in range(tokens, tokens + 4):
            text: str = self._tokenizer.decode(list(answer[-count:]))
            yield text
            if count >= len(answer) or not text.startswith(_BROKEN):
                return


def tokens_of(text: str, tokens: Sequence[int], decode: Decode) -> int:
    """How many of the first ``tokens`` are needed for their decoding to begin with ``text``.

    Tokens are removed from the end while the text stays complete, so that a token counts if it
    contributes at least one character: a token in which a stop sequence begins counts if its first
    part is text.

    Args:
        text: what is kept of the decoding of ``tokens``; a prefix of it.
        tokens: an answer's token ids.
        decode: gives their text.

    Returns:
        0..len(tokens); 0 for an empty text.
    """
    ids = list(tokens)
    while ids and decode(ids[:-1]).startswith(text):
        ids.pop()
    return len(ids)
