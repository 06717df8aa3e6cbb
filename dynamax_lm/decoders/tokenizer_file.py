"""A look at a tokenizer's file before its library reads it. It knows no model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import SettingError

FILE = "tokenizer.json"
LARGEST_ID = 10_000_000
"""Forty times the largest published vocabulary."""


def check_token_ids(folder: Path | str) -> None:
    """Refuse ids so large that a table up to them would fill the memory.

    The tokenizers library makes such a table: 8.6 GB for one id of 2^31.

    Args:
        folder: of the tokenizer; a name of the hub is passed by.

    Raises:
        SettingError: an id above `LARGEST_ID`.
    """
    path = Path(folder) / FILE
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return  # its library tells what is wrong
    for token, number in _ids(data):
        if isinstance(number, (int, float)) and not 0 <= number <= LARGEST_ID:
            raise SettingError(
                f"{path}: token {token!r} has the id {number}; ids lie in 0..{LARGEST_ID}"
            )


def _ids(data: Any) -> Iterator[tuple[object, object]]:
    if not isinstance(data, dict):
        return
    model = data.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    added = data.get("added_tokens")
    for one in added if isinstance(added, list) else ():
        if isinstance(one, dict):
            yield one.get("content"), one.get("id")
