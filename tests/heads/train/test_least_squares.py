"""Least-squares maps: exact where the truth is a map, and the best of their rank elsewhere."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamax_lm.heads.train.least_squares import Moments

WIDTH = 6


def tokens(seed: int, count: int = 60) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-2, 2, WIDTH)
    return torch.randn(count, WIDTH, generator=generator) * scale + scale, generator


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, WIDTH))
def test_a_map_of_the_rank_is_found_in_pieces_of_any_size(seed: int, rank: int) -> None:
    """Of dimensions whose scales differ by 10^4, and next to a target that is another's."""
    hidden, generator = tokens(seed)
    up = torch.randn(WIDTH, rank, generator=generator)
    down = torch.randn(rank, WIDTH, generator=generator)
    bias = torch.randn(WIDTH, generator=generator)
    target = hidden + hidden @ (up @ down).T + bias
    moments = Moments(WIDTH, 2)
    for some, wanted in zip(hidden.split(25), target.split(25), strict=True):
        moments.add(some, [some * 3, wanted])
    assert moments.tokens == len(hidden)
    full, low = moments.affine(1, 1e-12), moments.low_rank(1, 1e-12, rank)
    for found in (
        hidden + hidden @ full.weight.T + full.bias,
        hidden + hidden @ (low.up @ low.down).T + low.bias,
    ):
        error = (found - target).norm(dim=1) / target.norm(dim=1)
        assert error.max() < 1e-3


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_errors_fall_with_the_rank_and_no_other_map_is_better(seed: int) -> None:
    """By squared errors as shares of the target's squared size."""
    hidden, generator = tokens(seed)
    target = torch.randn(len(hidden), WIDTH, generator=generator) * 3 + 1
    moments = Moments(WIDTH, 1)
    moments.add(hidden, [target])

    def error(weight: Tensor, bias: Tensor) -> float:
        far = hidden + hidden @ weight.T + bias - target
        return float((far.double().norm(dim=1) / target.norm(dim=1)).square().sum())

    full = moments.affine(0, 1e-12)
    best = error(full.weight, full.bias)
    by_rank = []
    for rank in range(1, WIDTH + 1):
        low = moments.low_rank(0, 1e-12, rank)
        assert (low.up.shape, low.down.shape) == ((WIDTH, rank), (rank, WIDTH))
        by_rank.append(error(low.up @ low.down, low.bias))
    assert all(a >= b - 1e-3 * a for a, b in itertools.pairwise(by_rank))
    assert abs(by_rank[-1] - best) <= 1e-3 * best
    for _ in range(5):
        other = full.weight + 0.01 * torch.randn(WIDTH, WIDTH, generator=generator)
        assert error(other, full.bias) >= best * (1 - 1e-4)


def test_a_ridge_pulls_towards_the_identity() -> None:
    """In units of each dimension's second moment, over tokens of equal weight."""
    hidden, _ = tokens(0)
    target = 2 * hidden
    seconds = (hidden / target.norm(dim=1, keepdim=True)).square().sum(0)
    moments = Moments(WIDTH, 1)
    moments.add(hidden, [target])
    fits = [moments.affine(0, ridge) for ridge in (1e-9, 0.1, 0.9)]
    sizes = [float((one.weight.square() * seconds).sum()) for one in fits]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.1 * sizes[-1]
