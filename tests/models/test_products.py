"""The quicker product is the same product, and stays away where it is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.models import products
from dynamax_lm.models.products import gains, product, project

LARGE = 512  # a square weight of this side is worth the call


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 12),
    into=st.integers(1, 40),
    out=st.integers(1, 40),
    bias=st.booleans(),
    cut=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_it_is_the_usual_one_to_rounding(
    rows: int, into: int, out: int, bias: bool, cut: int, seed: int
) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(into, out + cut, bias=bias).requires_grad_(False)
    x = torch.randn(rows, into)
    exact = F.linear(x.double(), linear.weight.double(), linear.bias.double() if bias else None)
    part = linear.bias[cut:] if bias else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_LARGE", 0)
        whole, some = project(linear, x), product(x, linear.weight[cut:], part)
    for ours, wanted in [(whole, exact), (some, exact[:, cut:])]:
        assert ours.shape == wanted.shape
        assert ours.is_contiguous()
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-5)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt())


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
def test_wide_sums_keep_their_digits(rows: int) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, 2048), torch.randn(LARGE, 2048)
    assert gains(x, weight) == torch.backends.mkldnn.is_available()
    assert _error(product(x, weight, None), x.double() @ weight.double().t()) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats_stay_with_the_usual_one(dtype: torch.dtype) -> None:
    weight = torch.zeros(LARGE, LARGE, dtype=dtype)
    assert not gains(torch.zeros(2, LARGE, dtype=dtype), weight)


def test_small_weights_stay_with_the_usual_one() -> None:
    assert not gains(torch.zeros(2, LARGE), torch.zeros(LARGE - 1, LARGE))


def test_gradients_flow() -> None:
    weight = torch.zeros(LARGE, LARGE, requires_grad=True)
    product(torch.ones(2, LARGE), weight, None).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad[0, 0]) == 2.0
