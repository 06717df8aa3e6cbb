"""What every candidate exit would have said, beside what full depth says, from exact states.

Owns one teacher-forced full-depth pass over given answers, in which nobody leaves. Only small
integers are kept: hidden states and logits are dropped as soon as they are read. It does not know
documents, prices or what the ranks are for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamax_lm.core.loop import run_chunk
from dynamax_lm.core.memory import Memory
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import Chunk, LayerStack

BEYOND = 0
"""The rank of a token that is not among full depth's ``DEEPEST`` most likely ones."""

DEEPEST = 10

Ranks = npt.NDArray[np.int8]
"""(T, E): place of each exit's token among full depth's most likely ones, 1 the most likely."""


class _Reader:
    """Remembers each exit's most likely token, and ranks them by full depth's logits."""

    def __init__(self, tokens: int, exits: int) -> None:
        self._asked = [0] * tokens
        self._first = torch.zeros(tokens, exits, dtype=torch.long)
        self.ranks = torch.zeros(tokens, exits, dtype=torch.int8)

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        """Called once for each exit and token, in the order of the exits: nobody has left."""
        chosen = logits.argmax(-1)
        cells = index.cpu()
        column = self._asked[int(cells[0])]
        self._first[cells, column] = chosen.cpu()
        for cell in cells.tolist():
            self._asked[cell] += 1
        return chosen

    def emit(self, index: Tensor, logits: Tensor) -> None:
        """Full depth has spoken."""
        cells = index.cpu()
        best = logits.topk(min(DEEPEST, logits.shape[-1]), dim=-1).indices.cpu()  # (n, K)
        found = self._first[cells][:, :, None] == best[:, None, :]  # (n, E, K)
        places = torch.arange(1, best.shape[1] + 1)
        ranks = (found * places).sum(-1)
        # Where logits tie, argmax and topk may disagree on the first: emission is argmax.
        agrees = self._first[cells] == logits.argmax(-1).cpu()[:, None]
        ranks = torch.where(agrees, 1, torch.where(ranks == 1, 2, ranks))
        self.ranks[cells] = ranks.to(torch.int8)


def probe(
    stack: LayerStack,
    prompts: Sequence[tuple[int, ...]],
    answers: Sequence[Sequence[int]],
    exits: Sequence[int],
    memory: Memory,
) -> list[Ranks]:
    """Ranks of every exit's token at every answer token, one array an answer.

    Args:
        stack: the decoder.
        prompts: token ids, at least one each.
        answers: token ids, at least one each.
        exits: candidate exit layers, ascending, each in 1..L-1.
        memory: may hold the prompts' states already.
    """
    distinct = list(dict.fromkeys(prompts))
    place = {prompt: row for row, prompt in enumerate(distinct)}
    state = memory.prompt_state(stack, distinct, [place[prompt] for prompt in prompts])
    pairs = zip(prompts, answers, strict=True)
    inputs = [[prompt[-1], *answer[:-1]] for prompt, answer in pairs]
    count = sum(map(len, inputs))
    reader = _Reader(count, len(exits))
    # The oracle asks every exit for its token; at threshold 1 nobody leaves, whatever it finds.
    run_chunk(
        stack,
        state,
        Chunk.of(inputs, range(len(inputs)), stack.device),
        reader,
        policy=ExitPolicy(tuple(exits), "oracle", 1.0),
        targets=torch.zeros(count, dtype=torch.long, device=stack.device),
    )
    lengths = [len(row) for row in inputs]
    return [part.numpy() for part in reader.ranks.split(lengths)]
