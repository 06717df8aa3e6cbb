"""Prefill: prompts without their last token, at full depth.

The last prompt token is the first step that may exit. What the prompts of a batch begin with alike
(a few-shot header, a system prompt, a story) is run once, and its state is kept for the next batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from dynamax_lm.core.loop import run_chunk
from dynamax_lm.core.stack import LayerStack, TokenBatch

SHORTEST_PREFIX = 32
"""Tokens from which on a shared prefix is run on its own."""

_LONG = 0.8
"""Share of a batch's common prefix from which on a known, shorter one is used."""


def prefill(stack: LayerStack, prompts: Sequence[Sequence[int]]) -> Any:
    """A state of each prompt without its last token.

    Args:
        stack: the decoder.
        prompts: token ids, at least one each.

    Raises:
        ValueError: a prompt is empty.
    """
    bodies = _bodies(prompts)
    state = stack.new_state(len(bodies))
    if any(bodies):
        chunk = TokenBatch.of(bodies, range(len(bodies)), stack.device, prefill=True)
        run_chunk(stack, state, chunk, None)
    return state


class SharedPrefixes:
    """Prefills batches of prompts, and runs what a batch begins with alike only once.

    Args:
        stack: the decoder.
        shortest: tokens from which on a shared prefix is run on its own, at least 1.
    """

    def __init__(self, stack: LayerStack, shortest: int = SHORTEST_PREFIX) -> None:
        self._stack, self._shortest = stack, shortest
        self._prefix: tuple[int, ...] = ()
        self._state: Any = None
        self._last: tuple[int, ...] = ()

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Any:
        """A state of each prompt without its last token; see :func:`prefill`."""
        bodies = _bodies(prompts)
        shared = self._shared(bodies)
        self._last = bodies[-1]
        if len(shared) < self._shortest:
            return prefill(self._stack, prompts)
        self._keep(shared)
        state = self._stack.take(self._state, [0] * len(bodies))
        rest = [body[len(shared) :] for body in bodies]
        chunk = TokenBatch.of(rest, range(len(rest)), self._stack.device)
        run_chunk(self._stack, state, chunk, None)
        return state

    def _shared(self, bodies: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """What all ``bodies`` begin with; of one body, what it shares with the batch before.

        Some tokens of each remain.
        """
        most = min(map(len, bodies)) - 1
        alone = [self._last] if len(bodies) == 1 else []
        common = _common([*bodies, *alone])[: max(0, most)]
        known = len(self._prefix)
        begins_so = known > 0 and common[:known] == self._prefix
        return self._prefix if begins_so and known >= _LONG * len(common) else common

    def _keep(self, shared: tuple[int, ...]) -> None:
        """Make ``shared`` the known prefix, from the state of the last one where it begins so."""
        if shared == self._prefix:
            return
        known = len(self._prefix)
        if known and shared[:known] == self._prefix:
            chunk = TokenBatch.of([shared[known:]], [0], self._stack.device)
            run_chunk(self._stack, self._state, chunk, None)
        else:
            self._state = prefill(self._stack, [(*shared, 0)])
        self._prefix = shared


def _common(bodies: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest common prefix."""
    columns = zip(*bodies, strict=False)
    return tuple(column[0] for column in takewhile(lambda one: len(set(one)) == 1, columns))


def _bodies(prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    if not all(prompts):
        raise ValueError("a prompt needs at least one token: give it the prefix token")
    return [tuple(prompt[:-1]) for prompt in prompts]
