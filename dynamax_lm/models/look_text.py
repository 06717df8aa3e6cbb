"""The text whose hidden states the factors of a cheap look are made for.

It is of the package and the same in every run, so that factors depend on the checkpoint, its
tokenizer, the exits and the translators alone: the first stories of the package's CoQA sample,
without their questions and answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

_SAMPLE = Path(__file__).parents[1] / "tasks" / "coqa" / "sample.jsonl"
_ROW, _TOKENS = 256, 2048


def calibration_rows(encode: Callable[[str], list[int]], longest: int) -> list[list[int]]:
    """Rows of token ids, at most 2,048 tokens in all.

    Args:
        encode: of the tokenizer.
        longest: tokens that the model can be given at a time.
    """
    lines = _SAMPLE.read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line]
    stories = dict.fromkeys(str(record["story"]) for record in records)
    rows: list[list[int]] = []
    left = _TOKENS
    for story in stories:
        row = list(encode(story))[: min(_ROW, longest, left)]
        left -= len(row)
        rows += [row] if row else []
    return rows
