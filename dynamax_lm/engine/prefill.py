"""Prefill: prompts without their last token, at full depth or up to a prompt exit.

The last prompt token is the first step of an answer. What the prompts of a batch begin with alike
(a few-shot header, a system prompt, a story) is run once, and its state is kept for the next batch.
Long prompts run in pieces, so that the memory of their activations is bounded.

With a prompt exit, prefilled tokens run the layers below it, and the layers above get the state
that their hidden states at the exit propagate: SwiftKV's prefill (arXiv 2410.03960) without its
training, and for recurrent layers the partial forward of ``propagate``. Trained maps replace the
hidden state by an estimate of each layer's own input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat, takewhile
from typing import Any

from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.core.skipped_states import PROMPT_STATE
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.stateful_stack import StatefulStack

SHORTEST_PREFIX = 32
"""Tokens from which on a shared prefix is run on its own."""

TOKENS_AT_ONCE = 8192
"""Most prompt tokens of a pass, of all its rows."""

_LONG = 0.8
"""Share of a batch's common prefix from which on a known, shorter one is used."""


def prefill(
    stack: StatefulStack,
    prompts: Sequence[Sequence[int]],
    prompt_exit: PromptExit | None = None,
) -> Any:
    """A state of each prompt without its last token.

    Args:
        stack: the decoder.
        prompts: token ids, at least one each.
        prompt_exit: where these tokens exit; ``None`` for no exit.

    Raises:
        ValueError: a prompt is empty.
    """
    bodies = _bodies(prompts)
    state = stack.new_state(len(bodies))
    run_prompts(stack, state, bodies, prompt_exit, new=True)
    return state


def run_prompts(
    stack: StatefulStack,
    state: Any,
    tokens: Sequence[Sequence[int]],
    prompt_exit: PromptExit | None = None,
    *,
    new: bool = False,
) -> None:
    """Run prompt tokens, of which none is read, at most ``TOKENS_AT_ONCE`` in a pass.

    Args:
        stack: the decoder.
        state: its state; afterwards it includes the tokens.
        tokens: of each row of the state.
        prompt_exit: where they exit; ``None`` for no exit.
        new: whether the state is empty.
    """
    for number, (rows, pieces) in enumerate(_pieces(tokens, TOKENS_AT_ONCE)):
        first = new and not number
        token_batch = TokenBatch.of(pieces, rows, stack.device, prefill=first)
        _run(stack, state, token_batch, prompt_exit)


def _pieces(
    tokens: Sequence[Sequence[int]], most: int
) -> Iterator[tuple[list[int], list[Sequence[int]]]]:
    """Rows, and a piece of each: all rows at first, then those of which something is left."""
    width = max(1, most // len(tokens))
    for start in range(0, max(map(len, tokens)), width):
        rows = [row for row, own in enumerate(tokens) if start == 0 or len(own) > start]
        yield rows, [tokens[row][start : start + width] for row in rows]


def _run(
    stack: StatefulStack,
    state: Any,
    token_batch: TokenBatch,
    prompt_exit: PromptExit | None,
) -> None:
    """One pass."""
    depth = stack.n_layers if prompt_exit is None else prompt_exit.layer
    run = stack.begin(state, token_batch, PROMPT_STATE)
    hidden = stack.embed(run)
    for layer in range(depth):
        hidden = stack.layer(layer, hidden, run)
    if prompt_exit is not None and depth < stack.n_layers:
        real = token_batch.real(run.slots)
        run.freeze(real, hidden)
        run.set_slots(run.slots[:0])  # no padding either
        hidden, frozen = hidden[:0], run.frozen_hidden
        assert frozen is not None
        maps = prompt_exit.maps
        inputs = repeat(frozen) if maps is None else maps.inputs(frozen)
        for layer, own in zip(range(depth, stack.n_layers), inputs, strict=False):
            run.frozen_hidden = own
            hidden = stack.layer(layer, hidden, run)
    stack.end(state, run)


class SharedPrefixes:
    """Prefills batches of prompts, and runs what a batch begins with alike only once.

    Args:
        stack: the decoder.
        shortest: tokens from which on a shared prefix is run on its own, at least 1.
        prompt_exit: where prompt tokens exit; ``None`` for no exit.
    """

    def __init__(
        self,
        stack: StatefulStack,
        shortest: int = SHORTEST_PREFIX,
        prompt_exit: PromptExit | None = None,
    ) -> None:
        self._stack, self._shortest = stack, shortest
        self._exit = prompt_exit
        self._prefix: tuple[int, ...] = ()
        self._state: Any = None
        self._last: tuple[int, ...] = ()

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Any:
        """A state of each prompt without its last token; see :func:`prefill`."""
        bodies = _bodies(prompts)
        shared = self._shared(bodies)
        self._last = bodies[-1]
        if len(shared) < self._shortest:
            return prefill(self._stack, prompts, self._exit)
        self._keep(shared)
        state = self._stack.take(self._state, [0] * len(bodies))
        rest = [body[len(shared) :] for body in bodies]
        run_prompts(self._stack, state, rest, self._exit)
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
            rest = [shared[known:]]
            run_prompts(self._stack, self._state, rest, self._exit)
        else:
            self._state = prefill(self._stack, [(*shared, 0)], self._exit)
        self._prefix = shared


def _common(bodies: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest common prefix."""
    columns = zip(*bodies, strict=False)
    return tuple(column[0] for column in takewhile(lambda one: len(set(one)) == 1, columns))


def _bodies(prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    if not all(prompts):
        raise ValueError("a prompt needs at least one token: give it the prefix token")
    return [tuple(prompt[:-1]) for prompt in prompts]
