"""Which exits are right at the training tokens, judged among a short list of the vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.criteria.asking import Exits, Unembed, read_exits
from benchmarks.criteria.states import States
from benchmarks.real.vocabulary import ShortList
from dynamax_lm.common.outputs import replacing
from dynamax_lm.heads import ExitHeads

_TOKENS_AT_ONCE = 512


def labels(
    path: Path, short: ShortList, train: States, translators: ExitHeads, most: int = 1
) -> Exits:
    """The exits' tokens and labels, computed once.

    Args:
        path: of the file that keeps them.
        short: the list.
        train: states of the training tokens.
        translators: of the exits.
        most: the label of an exit is whether its token is among full depth's so many most likely.
    """
    if path.is_file():
        with np.load(path) as kept:
            return Exits(kept["tokens"], kept["right"], {})
    numbered = short.numbered(train)
    found = read_exits(numbered, short.unembed, translators, ())
    right = found.right
    if most > 1:
        right = among_most_likely(numbered, short.unembed, found.tokens, most)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, tokens=found.tokens, right=right)
    return Exits(found.tokens, right, {})


@torch.inference_mode()
def among_most_likely(
    states: States, unembed: Unembed, tokens: NDArray[np.int64], most: int
) -> NDArray[np.bool_]:
    """(E, N) whether each of ``tokens`` (E, N) is among full depth's most likely.

    Args:
        states: of the tokens.
        unembed: (n, D) to logits over what ``tokens`` number.
        tokens: of the exits.
        most: how many are.
    """
    right = np.zeros(tokens.shape, dtype=bool)
    for start in range(0, tokens.shape[1], _TOKENS_AT_ONCE):
        part = slice(start, start + _TOKENS_AT_ONCE)
        likely = unembed(states.at(len(states.exits), part)).topk(most, dim=-1).indices.numpy()
        right[:, part] = (tokens[:, part, None] == likely).any(-1)
    return right
