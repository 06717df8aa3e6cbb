"""Tokens to text and back, as the run's own tokenizer does it.

Owns the tokenizer's use by verification: what lm-eval decodes, special tokens left out, and how
many tokens a prompt has. It does not know traces.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynamax_lm.report.costs import checkpoint_folder
from dynamax_lm.report.runs import Run
from dynamax_lm.report.tokentext import find_file


class Codec:
    """One checkpoint's tokenizer.

    Args:
        file: its ``tokenizer.json``.
    """

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens' text, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def answer(self, tokens: Sequence[int], stops: Sequence[str]) -> str:
        """An answer's text, cut at the first of each stop, as lm-eval's ``hf`` model cuts it."""
        text = self.text(tokens)
        for stop in stops:
            text = text.split(stop)[0]
        return text

    def count(self, prompt: str) -> int:
        """How many tokens a prompt has, with those that the tokenizer adds."""
        return len(self._tokenizer.encode(prompt).ids)


def codec_of(run: Run) -> Codec | None:
    """The run's tokenizer, or ``None`` where it is not on this machine, or works otherwise."""
    folder = checkpoint_folder(run)
    name = run.model_args.get("tokenizer") or (str(folder) if folder else run.pretrained)
    try:
        file = find_file(name, "tokenizer.json")
        config = find_file(name, "tokenizer_config.json")
        if file is None:
            return None
        if config is not None:
            options = json.loads(config.read_text(encoding="utf-8"))
            if options.get("clean_up_tokenization_spaces"):
                return None  # transformers changes the text once more
        return Codec(file)
    except Exception:  # a tokenizer's file may fail in any way: then texts are left unchecked
        return None
