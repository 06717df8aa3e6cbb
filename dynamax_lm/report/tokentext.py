"""Token ids to text, token by token.

Owns how a tokenizer is found for a run, and how an answer's text is cut into its tokens. Where no
tokenizer can be had the ids themselves are shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dynamax_lm.report.costs import checkpoint_folder
from dynamax_lm.report.runs import Run

Decode = Callable[[list[int]], str]

_UNFINISHED = "\ufffd"


class TokenTexts:
    """Finds each run's tokenizer once.

    Args:
        tokenizer: folder or hub id to use for every run; ``None`` for each run's own.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, Decode | None] = {}

    def of(self, run: Run) -> Decode | None:
        """The run's decoder, or ``None`` where its tokenizer cannot be had."""
        folder = checkpoint_folder(run)
        own = run.model_args.get("tokenizer") or (str(folder) if folder else run.pretrained)
        name = self._tokenizer or own
        if name not in self._known:
            self._known[name] = _find(name)
        return self._known[name]


def split(ids: Sequence[int], decode: Decode | None) -> list[str]:
    """The answer's text by token; joined, it is the text of the whole.

    A character that several tokens make up stands with the last of them.

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


_LONGEST = 8
"""Tokens that may make up one character before it is taken for a broken one."""


def _find(name: str) -> Decode | None:
    """A decoder from a folder's tokenizer.json without torch, or else by transformers."""
    from tokenizers import Tokenizer

    file = Path(os.path.expanduser(name)) / "tokenizer.json"
    try:
        if file.is_file():
            fast = Tokenizer.from_file(str(file))
            return lambda ids: str(fast.decode(ids, skip_special_tokens=False))
        from transformers import AutoTokenizer

        slow = AutoTokenizer.from_pretrained(name)
        return lambda ids: str(slow.decode(ids, clean_up_tokenization_spaces=False))
    except Exception:  # a hub, a network, or a tokenizer's own code: any failure means ids
        return None
