"""Quantisation bins are those of the formats, and draws stay inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.real.bins import _halves, q4_1, q8_0


def encoded_q4_1(rows: Any) -> Any:
    blocks = rows.reshape(-1, 32)
    least = blocks.min(1, keepdims=True)
    step = (blocks.max(1, keepdims=True) - least) / 15
    levels = ((blocks - least) / step + 0.5).astype(np.uint8).clip(0, 15)
    scales = np.concatenate([step, least], 1).astype(np.float16).view(np.uint8)
    pairs = levels[:, :16] | (levels[:, 16:] << 4)
    return np.concatenate([scales, pairs], 1).reshape(len(rows), -1)


def encoded_q8_0(rows: Any) -> Any:
    blocks = rows.reshape(-1, 32)
    step = np.abs(blocks).max(1, keepdims=True) / 127
    levels = np.round(blocks / step).astype(np.int8).view(np.uint8)
    return np.concatenate([step.astype(np.float16).view(np.uint8), levels], 1).reshape(
        len(rows), -1
    )


@pytest.mark.parametrize(
    ("encode", "read", "levels"), [(encoded_q4_1, q4_1, 15), (encoded_q8_0, q8_0, 254)]
)
def test_originals_and_draws_lie_in_their_bins(encode: Any, read: Any, levels: int) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    bins = read(encode(rows))
    assert bins.values.shape == rows.shape
    of_scales = np.abs(rows).max() * 2.0**-10
    assert (rows >= bins.low - of_scales).all()
    assert (rows <= bins.high + of_scales).all()
    spread = np.ptp(rows.reshape(-1, 32), axis=1) if levels == 15 else None
    if spread is not None:
        assert (bins.high - bins.low <= spread.max() / 15 * 1.01).all()
    draws = [bins.draw(np.random.default_rng(seed)) for seed in range(2)]
    assert not np.array_equal(*draws)
    for one in draws:
        assert (one >= bins.low).all()
        assert (one <= bins.high).all()
    inner = (bins.values > bins.low) & (bins.values < bins.high)
    assert 0.8 < inner.mean() < 1  # the extremes of a block have half a bin


def test_rows_of_a_head_are_ordered_as_transformers_has_them() -> None:
    """The inverse of llama.cpp's permutation, as its converter writes it."""
    weight = torch.arange(24.0).reshape(12, 2)
    permuted = weight.reshape(2, 2, 3, 2).swapaxes(1, 2).reshape(12, 2)
    assert np.array_equal(_halves(permuted.numpy(), 2), weight.numpy())
