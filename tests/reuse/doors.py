"""The two doors of a runner against the engine's, and what tests of both draw."""

from __future__ import annotations

from typing import Any

from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.score import score
from dynamax_lm.reuse.reuse_runner import ReuseRunner
from tests.laws import Tally


def same_through_both_doors(
    runner: ReuseRunner, stack: Any, asked: list[Any], scored: list[Any], **options: Any
) -> set[int]:
    """Requests through a runner go the way that they go alone; the depths of their tokens."""
    tally, depths = Tally(options["policy"].threshold), set()
    pairs = [
        (runner.generate(stack, asked, **options), generate(stack, asked, **options)),
        (runner.score(stack, scored, **options), score(stack, scored, **options)),
    ]
    for ours, others in pairs:
        for one, other in zip(ours, others, strict=True):  # type: ignore[call-overload]
            tally.same(one.trace, other.trace)
            depths.update(one.trace.layers_used)
    tally.check()
    return depths
