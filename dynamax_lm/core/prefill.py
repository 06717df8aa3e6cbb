"""Prefill: prompts without their last token, at full depth.

The last prompt token is the first step that may exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamax_lm.core.loop import run_chunk
from dynamax_lm.core.stack import LayerStack, TokenBatch


def prefill(stack: LayerStack, prompts: Sequence[Sequence[int]]) -> Any:
    """A state of each prompt without its last token.

    Args:
        stack: the decoder.
        prompts: token ids, at least one each.

    Raises:
        ValueError: a prompt is empty.
    """
    if not all(prompts):
        raise ValueError("a prompt needs at least one token: give it the prefix token")
    state = stack.new_state(len(prompts))
    bodies = [list(prompt[:-1]) for prompt in prompts]
    if any(bodies):
        chunk = TokenBatch.of(bodies, range(len(bodies)), stack.device, prefill=True)
        run_chunk(stack, state, chunk, None)
    return state
