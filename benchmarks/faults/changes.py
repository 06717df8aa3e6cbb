"""Changes of a file's content: another value inside its JSON, or other bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, 10**30, 1e308, float("inf"), float("nan")),
    *(-0.5, "", "x", "\\ud800", "1" * 1000, "../../etc/passwd", [], [[]], {}, {"a": 1}, [1, 2]),
    *([None], 10**6, "__import__('os')"),
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside."""
    if path:
        yield path
    items: Any = data.items() if isinstance(data, dict) else ()
    if isinstance(data, list):
        items = enumerate(data)
    for key, value in items:
        yield from places(value, (*path, key))


def with_other_value(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """JSON in which one value is another, or gone; and the change in words."""
    data = copy.deepcopy(json.loads(content))
    *way, last = draw.choice(list(places(data)))
    inside = data
    for step in way:
        inside = inside[step]
    where = ".".join(map(str, (*way, last)))
    if draw.random() < 0.2 and isinstance(inside, dict):
        del inside[last]
        return json.dumps(data).encode(), f"{where} left out"
    value = draw.choice(VALUES)
    inside[last] = value
    return json.dumps(data).encode(), f"{where} = {value!r}"[:200]


def with_other_bytes(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Content of which some bytes are others, gone or new; and the change in words."""
    where = draw.randrange(min(len(content), draw.choice((8, 64, 512, len(content)))))
    how = draw.choice(("changed", "cut", "added", "huge length"))
    if how == "changed":
        new = bytes(draw.randrange(256) for _ in range(draw.choice((1, 4))))
        return content[:where] + new + content[where + len(new) :], f"bytes at {where}: {new!r}"
    if how == "cut":
        return content[:where], f"cut at {where}"
    if how == "added":
        return content[:where] + b"\x00{}[" + content[where:], f"bytes added at {where}"
    return b"\xff" * 7 + content[7:], "a header of 2^56 bytes"
