"""Hardware limits of a decoding step: its matrix products alone, and the bytes they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dynamax_lm.bench.subject import Subject
from dynamax_lm.bench.timing import Contestant, seconds
from dynamax_lm.decoders.cpu.products import project_parted, project_trusted


def bare_products(subject: Subject, batch: int, *, plain: bool = False) -> Contestant:
    """All matrix products of one step at full depth, and the vocabulary projection.

    With this package's products, or ``plain``: with transformers' ``F.linear``.
    """
    linears: Sequence[Any] = subject.plain_linears() if plain else subject.linears()
    dtype = subject.model.dtype
    project = subject.stack.products.project
    widths = {linear.in_features for linear in linears}
    inputs = {
        width: torch.randn(batch, width, device=subject.stack.device).to(dtype) for width in widths
    }

    def run() -> None:
        for linear in linears:
            rows = inputs[linear.in_features]
            if plain:
                project_trusted(linear, rows)
            elif getattr(linear, "cut", 0):
                project_parted(linear, rows, linear.cut, project)  # never joined in the decoder
            else:
                project(linear, rows)

    return run


def bytes_read(subject: Subject) -> int:
    """Bytes of the weights that one step reads."""
    weights = [linear.weight for linear in subject.plain_linears()]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def bandwidth(device: str, *, mebibytes: int = 256, rounds: int = 7) -> float:
    """Bytes a second that the device reads, the best of ``rounds`` sums over a large buffer."""
    buffer = torch.ones(mebibytes << 18, device=device)
    best = float("inf")
    for _ in range(rounds + 1):
        best = min(best, seconds(lambda: float(buffer.sum())))
    return buffer.numel() * buffer.element_size() / best
