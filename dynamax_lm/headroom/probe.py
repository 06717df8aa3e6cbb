"""Ranks of every candidate exit's most likely token among full depth's most likely tokens.

Only small integers are kept: hidden states and logits are discarded after use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamax_lm.core.exit_view import ExitView
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.exit_probe import probe_exits
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.reuse.reuse_cache import ReuseCache

DEEPEST = 10

Ranks = npt.NDArray[np.int8]
"""(T, E): place of each exit's token among full depth's most likely ones, 1 the most likely; 0 for
a token that is not among the ``DEEPEST`` first."""


class PromptTry(NamedTuple):
    """Prompts that exit, as they are tried.

    Attributes:
        exit: where, in 1..L-1.
        name: of the maps, if any.
    """

    exit: PromptExit
    name: str | None = None


class AnswerRanks(NamedTuple):
    """What exits predict at the tokens of one answer.

    Attributes:
        ranks: (T, E) of every exit's token.
        prompts: (T, K) bool, whether full depth's token stays the most likely after a prompt that
            exits in each of K ways.
    """

    ranks: Ranks
    prompts: npt.NDArray[np.bool_]


class Emitted:
    """Stores full depth's most likely tokens.

    Args:
        tokens: N.

    Attributes:
        emitted: (N,) the tokens.
    """

    def __init__(self, tokens: int) -> None:
        self.emitted = torch.zeros(tokens, dtype=torch.long)

    def on_exit(self, view: ExitView) -> None:
        """Nothing of an exit."""

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        """Keep them."""
        del hidden
        self.emitted[index.cpu()] = logits().argmax(-1).cpu()


class RankGrid(Emitted):
    """Stores each exit's most likely token, and ranks them by full depth's logits.

    Args:
        tokens: N.
        exits: E.

    Attributes:
        ranks: (N, E).
    """

    def __init__(self, tokens: int, exits: int) -> None:
        super().__init__(tokens)
        self._first = torch.zeros(tokens, exits, dtype=torch.long)
        self.ranks = torch.zeros(tokens, exits, dtype=torch.int8)

    def on_exit(self, view: ExitView) -> None:
        """Keep the exit's most likely tokens."""
        self._first[view.index.cpu(), view.exit] = view.logits.argmax(-1).cpu()

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        """Rank them."""
        super().on_full_depth(index, hidden, logits)
        tokens, full = index.cpu(), logits()
        best = full.topk(min(DEEPEST, full.shape[-1]), dim=-1).indices.cpu()  # (n, K)
        found = self._first[tokens][:, :, None] == best[:, None, :]  # (n, E, K)
        places = torch.arange(1, best.shape[1] + 1)
        ranks = (found * places).sum(-1)
        # Where logits tie, argmax and topk may disagree on the first: emission is argmax.
        agrees = self._first[tokens] == self.emitted[tokens][:, None]
        ranks = torch.where(agrees, 1, torch.where(ranks == 1, 2, ranks))
        self.ranks[tokens] = ranks.to(torch.int8)


def rank_exits(
    stack: StatefulStack,
    prompts: Sequence[tuple[int, ...]],
    answers: Sequence[Sequence[int]],
    exits: Sequence[int],
    cache: ReuseCache,
    *,
    prompt_exits: Sequence[PromptTry] = (),
) -> list[AnswerRanks]:
    """Ranks of every exit's token at every answer token, answer by answer.

    Args:
        stack: the decoder.
        prompts: token ids, at least one each.
        answers: token ids, at least one each.
        exits: candidate exit layers, ascending, each in 1..L-1.
        cache: of prompt states.
        prompt_exits: ways in which prompts are tried to exit.
    """
    distinct = list(dict.fromkeys(prompts))
    place = {prompt: row for row, prompt in enumerate(distinct)}
    rows = [place[prompt] for prompt in prompts]
    pairs = zip(prompts, answers, strict=True)
    inputs = [[prompt[-1], *answer[:-1]] for prompt, answer in pairs]
    lengths = [len(row) for row in inputs]
    token_batch = TokenBatch.of(inputs, range(len(inputs)), stack.device)

    grid = RankGrid(sum(lengths), len(exits))
    probe_exits(stack, cache.prompt_state(stack, distinct, rows), token_batch, exits, [grid])
    stays = torch.zeros(sum(lengths), len(prompt_exits), dtype=torch.bool)
    for column, one in enumerate(prompt_exits):
        after = Emitted(sum(lengths))
        state = cache.prompt_state(stack, distinct, rows, one.exit)
        probe_exits(stack, state, token_batch, (), [after])
        stays[:, column] = after.emitted == grid.emitted
    parts = zip(grid.ranks.split(lengths), stays.split(lengths), strict=True)
    return [AnswerRanks(ranks.numpy(), same.numpy()) for ranks, same in parts]
