"""The number format of the matrix products in training; weights and sums stay float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter

import torch
from torch import Tensor
from torch.optim import _muon

NAMES = ("bfloat16", "float32")


def fastest() -> str:
    """The faster format on this machine, by products in each: many CPUs emulate bfloat16."""

    def seconds(name: str) -> float:
        factor = torch.ones(512, 512, dtype=getattr(torch, name))
        factor @ factor
        started = perf_counter()
        for _ in range(3):
            factor @ factor
        return perf_counter() - started

    return min(NAMES, key=seconds)


def forward_in(precision: str) -> AbstractContextManager[object]:
    """Inside the block, the model multiplies in this format.

    Args:
        precision: One of `NAMES`.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast("cpu", torch.bfloat16)


@contextmanager
def step_in(precision: str) -> Iterator[None]:
    """Inside the block, so does torch's Muon, whose products are otherwise always bfloat16.

    Args:
        precision: One of `NAMES`.
    """
    usual = _muon._zeropower_via_newtonschulz
    if precision == "float32":
        _muon._zeropower_via_newtonschulz = orthogonalised
    try:
        yield
    finally:
        _muon._zeropower_via_newtonschulz = usual


def orthogonalised(
    grad: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Torch's function for Muon, in the format of its argument.

    Args:
        grad: A matrix.
        coefficients: Of the quintic Newton-Schulz iteration.
        steps: Iterations.
        eps: Least norm.

    Returns:
        The nearest orthogonal matrix, roughly.
    """
    a, b, c = coefficients
    tall = grad.shape[0] > grad.shape[1]
    found = grad.T if tall else grad
    found = found / found.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        update = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.addmm(found, update, found, beta=a)
    return found.T if tall else found
