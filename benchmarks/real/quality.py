"""Agreement and divergence of an exit's predictions from full depth's, on some tokens.

Neither depends on an exit rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from benchmarks.criteria.asking import Unembed
from benchmarks.criteria.states import States
from dynamax_lm.heads import ExitHeads
from dynamax_lm.heads.train.losses import distillation

_PIECE = 256


class Quality(NamedTuple):
    """Of one exit.

    Attributes:
        layer: layers run before it.
        agreement: share of tokens whose most likely token is full depth's.
        divergence: mean Kullback-Leibler divergence from full depth's distribution, in nats.
    """

    layer: int
    agreement: float
    divergence: float


def some_tokens(states: States, count: int, seed: int = 0) -> list[int]:
    """At most ``count`` of the tokens, drawn at random, ascending."""
    generator = np.random.default_rng(seed)
    found: list[int] = sorted(generator.permutation(len(states.token))[:count].tolist())
    return found


@torch.inference_mode()
def qualities(
    states: States, tokens: list[int], unembed: Unembed, bank: ExitHeads | None
) -> list[Quality]:
    """Of every exit, with translators if there are any.

    Args:
        states: of answers or text.
        tokens: which of them.
        unembed: of the backbone.
        bank: the translators.
    """
    sums = np.zeros((len(states.exits), 2))
    for start in range(0, len(tokens), _PIECE):
        some = tokens[start : start + _PIECE]
        full = unembed(states.at(len(states.exits), some))
        for number, layer in enumerate(states.exits):
            hidden = states.at(number, some)
            logits = unembed(hidden if bank is None else bank.translate(layer, hidden))
            same = (logits.argmax(-1) == full.argmax(-1)).sum()
            sums[number] += float(same), float(distillation(logits, full).sum())
    return [
        Quality(layer, *(row / len(tokens)).tolist())
        for layer, row in zip(states.exits, sums, strict=True)
    ]
