"""A norm in one call is transformers' own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from dynamax_lm.decoders.cpu.norms import ALIKE, normalise


def plain_norm(model_type: str) -> Any:
    """The class of the norm of a model type of transformers."""
    module = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    found = [
        one
        for name, one in vars(module).items()
        if name.endswith("RMSNorm") and "Weightless" not in name
    ]
    assert len(found) == 1
    return found[0]


@pytest.fixture(params=ALIKE)
def norm(request: pytest.FixtureRequest) -> torch.nn.Module:
    made: torch.nn.Module = plain_norm(request.param)(48, eps=0.01).requires_grad_(False)
    made.weight.uniform_(0.5, 2.0)
    return made


def test_in_float32_to_the_last_bit(norm: torch.nn.Module) -> None:
    hidden = torch.randn(7, 48)
    assert torch.equal(normalise(norm, hidden), norm(hidden))


def test_in_bfloat16_it_errs_no_more(norm: torch.nn.Module) -> None:
    hidden = torch.randn(200, 48).bfloat16()
    low = norm.bfloat16()
    exact = hidden.float() * torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + 0.01)
    exact = exact * low.weight.float()
    errors = [(found.float() - exact).norm() for found in (normalise(low, hidden), low(hidden))]
    assert errors[0] <= errors[1]


def test_mixed_formats_and_strangers_are_called_as_they_are(norm: torch.nn.Module) -> None:
    hidden = torch.randn(2, 48)
    low = norm.bfloat16()
    assert torch.equal(normalise(low, hidden), low(hidden))
    other = torch.nn.LayerNorm(48).requires_grad_(False)
    assert torch.equal(normalise(other, hidden), other(hidden))
