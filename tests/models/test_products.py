"""The shortcut for a handful of rows is the same product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.models.products import few, product, project


@settings(max_examples=60)
@given(
    rows=st.integers(0, 12),
    into=st.integers(1, 40),
    out=st.integers(1, 40),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_errs_no_more_than_the_usual_one(
    rows: int, into: int, out: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(into, out, bias=bias).requires_grad_(False)
    x = torch.randn(rows, into)
    exact = F.linear(x.double(), linear.weight.double(), linear.bias.double() if bias else None)
    for ours in (project(linear, x), product(x, linear.weight, linear.bias)):
        assert ours.shape == (rows, out)
        assert ours.is_contiguous()
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_only_float32_takes_it(dtype: torch.dtype) -> None:
    weight = torch.zeros(32, 8)
    assert few(torch.zeros(2, 8), weight) == torch.backends.mkl.is_available()
    assert not few(torch.zeros(2, 8, dtype=dtype), weight.to(dtype))
    assert not few(torch.zeros(1, 8), weight)
    assert not few(torch.zeros(9, 8), weight)
