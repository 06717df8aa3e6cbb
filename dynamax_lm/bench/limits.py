"""What no engine can beat: the bare matrix products, and the bytes they read.

Owns the limits. It does not know the engine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dynamax_lm.bench.subject import Subject
from dynamax_lm.bench.timing import Contestant, seconds
from dynamax_lm.models.products import product

Product = Callable[[Tensor, Tensor, None], Tensor]


def bare_products(subject: Subject, batch: int, by: Product = product) -> Contestant:
    """All matrix products of one step at full depth, and the vocabulary projection.

    ``by`` is the engine's own choice of library, or ``F.linear``, which is transformers'.
    """
    linears = [*subject.linears(0, subject.layers), subject.stack.lm_head]
    inputs: dict[int, Tensor] = {}
    for linear in linears:
        weight = linear.weight
        inputs.setdefault(weight.shape[1], torch.randn(batch, weight.shape[1]).to(weight))

    def run() -> None:
        for linear in linears:
            by(inputs[linear.weight.shape[1]], linear.weight, None)

    return run


def bytes_read(subject: Subject) -> int:
    """Bytes of the weights that one step reads."""
    linears = [*subject.linears(0, subject.layers), subject.stack.lm_head]
    return sum(linear.weight.numel() * linear.weight.element_size() for linear in linears)


def bandwidth(device: str, *, mebibytes: int = 256, rounds: int = 7) -> float:
    """Bytes a second that the device reads, the best of ``rounds`` sums over a large buffer."""
    buffer = torch.ones(mebibytes << 18, device=device)
    best = float("inf")
    for _ in range(rounds + 1):
        best = min(best, seconds(lambda: float(buffer.sum())))
    return buffer.numel() * buffer.element_size() / best
