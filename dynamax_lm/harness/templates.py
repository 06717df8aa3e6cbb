"""Templates of tasks are compiled once, not for every document that they render.

lm-eval compiles a task's template about five times a document, which is most of the time that a run
of short documents spends outside the model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

_KEPT = 256


def around_from_string(original: Callable[..., Any], source: Any, *rest: Any, **named: Any) -> Any:
    """Wraps ``lm_eval.utils.env.from_string``: a compiled template, which has no state."""
    if rest or named or not isinstance(source, str):
        return original(source, *rest, **named)
    return _compiled(original, source)


@lru_cache(_KEPT)
def _compiled(original: Callable[[str], Any], source: str) -> Any:
    return original(source)
