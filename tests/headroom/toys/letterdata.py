"""Questions whose answers are one byte: one token for the tests' tokenizer."""

from __future__ import annotations

from typing import Any

import datasets


def letters(**_: Any) -> dict[str, datasets.Dataset]:
    """Eight questions with letters to choose from."""
    rows = [
        {"text": f"{i} and {i * i}, what is it", "choices": ["a", "b", chr(99 + i)], "gold": i % 3}
        for i in range(8)
    ]
    return {"test": datasets.Dataset.from_list(rows)}
