"""One description of the machine for many evaluations.

lm-eval describes it in every results file, which takes seconds as it runs other programs. Within
the context of this module the description is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def described_once() -> Iterator[None]:
    """Within this context, lm-eval's evaluations share one description of the machine."""
    import lm_eval.evaluator as host

    describe = host.add_env_info
    known: dict[str, Any] = {}

    def remembered(results: dict[str, Any]) -> None:
        if not known:
            describe(known)
        results.update(known)

    host.add_env_info = remembered
    try:
        yield
    finally:
        host.add_env_info = describe
