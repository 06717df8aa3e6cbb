"""Measurement of the error and the time of matrix products.

Glossary: N rows, D width of an input, E of an output.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

_SAMPLED = 2048
"""Least number of outputs in an error estimate."""
_REFERRED = 512
"""Outputs of a weight that are computed in float64."""
_SECONDS = 0.015
"""Seconds for the timing of one product at one row count, beyond the fewest rounds."""
_ROUNDS = (5, 40)
"""Least and largest number of rounds of a timing."""

NumberedProduct = Callable[[Tensor, int], Tensor]
"""(N, E) of rows (N, D) and the number of a weight among those of the shape."""


class Meter(Protocol):
    """Measures errors and times; tests use a scripted one."""

    def error(self, name: str, product: NumberedProduct, weight: Tensor, rows: int) -> float:
        """Root mean square error of ``product`` with the first weight, against float64."""
        ...

    def seconds(
        self, products: Mapping[str, NumberedProduct], weights: Sequence[Tensor], rows: int
    ) -> Mapping[str, Sequence[float]]:
        """Seconds of each product in each round, in which they follow each other."""
        ...


class Clock:
    """Errors against float64, and times by a clock."""

    def error(self, name: str, product: NumberedProduct, weight: Tensor, rows: int) -> float:
        """Over fixed normal inputs."""
        del name
        outputs = min(_REFERRED, weight.shape[0])
        draws = -(-_SAMPLED // (rows * outputs))
        inputs = _inputs(draws * rows, weight)
        exact = inputs.double() @ weight[:outputs].double().t()
        found = [product(some, 0)[:, :outputs] for some in inputs.split(rows)]
        return float((torch.cat(found).double() - exact).square().mean().sqrt())

    def seconds(
        self, products: Mapping[str, NumberedProduct], weights: Sequence[Tensor], rows: int
    ) -> Mapping[str, Sequence[float]]:
        """Over weights in turn, so that they are read from memory, as in a model.

        Products follow each other in the same order in every round: between two readings of one
        weight, all others are read. One thread is timed by its processor time, which the load of
        other programs does not affect; several threads by wall-clock time.
        """
        now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        inputs = _inputs(rows, weights[0])
        order = list(products)
        for name in order:
            for which in range(len(weights)):  # packs them
                products[name](inputs[:1], which)
            products[name](inputs, 0)
        taken: dict[str, list[float]] = {name: [] for name in order}
        fewest, most = _ROUNDS
        end = now() + _SECONDS * len(order)
        for number in range(most):
            for name in order:
                start = now()
                products[name](inputs, (number + 1) % len(weights))
                taken[name].append(now() - start)
            if number + 1 >= fewest and now() > end:
                break
        return taken


def _inputs(rows: int, weight: Tensor) -> Tensor:
    """(rows, D) fixed normal numbers."""
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, weight.shape[1], generator=generator).to(weight.dtype)
