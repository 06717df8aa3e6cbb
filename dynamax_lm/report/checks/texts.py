"""Tokens to text, and lengths of prompts, by the run's own tokenizer.

Texts are decoded as in lm-eval, without special tokens.
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
        """An answer's text, truncated at stop sequences as by lm-eval's ``hf`` model."""
        text = self.text(tokens)
        for stop in stops:
            text = text.split(stop)[0]
        return text

    def count(self, prompt: str) -> int:
        """Number of tokens of a prompt, with those that the tokenizer adds."""
        return len(self._tokenizer.encode(prompt).ids)


def codec_of(run: Run) -> Codec | None:
    """The run's tokenizer, or ``None`` if it is not local, or of another type."""
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
                return None  # transformers post-processes the text
        return Codec(file)
    except Exception:  # any error of a tokenizer's file: texts are then unchecked
        return None
