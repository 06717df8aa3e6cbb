"""Factors of the unembedding and logits of single tokens, against dense linear algebra."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynamax_lm.decoders.cheap_projection import CheapProjection, scale_of
from dynamax_lm.decoders.cpu.products import Packed
from dynamax_lm.decoders.families import FAMILIES
from dynamax_lm.decoders.family_stack import FamilyStack
from tests.decoders.tiny_families import tiny_model

pytestmark = pytest.mark.usefixtures("no_gradients")

SCALED = [name for name, family in FAMILIES.items() if family.scaling != type(family.scaling)()]
"""Families whose logits are multiplied, divided, capped or widened."""


@settings(max_examples=25, deadline=None)
@given(
    vocabulary=st.integers(1, 40),
    width=st.integers(1, 12),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_factors_are_the_best_of_their_rank(
    vocabulary: int, width: int, seed: int, data: st.DataObject
) -> None:
    """Their squared error is the sum of the other singular values' squares (Eckart and Young)."""
    torch.manual_seed(seed)
    head = nn.Linear(width, vocabulary, bias=False)
    scale = torch.rand(width, dtype=torch.float64) + 0.1
    rank = data.draw(st.integers(1, width))
    left, right = CheapProjection(head, scale).factors(rank)
    assert (left.shape, right.shape) == ((vocabulary, rank), (rank, width))
    scaled = head.weight.double() * scale
    error = (left.double() @ right.double() * scale - scaled).square().sum()
    rest = torch.linalg.svdvals(scaled)[rank:].square().sum()
    torch.testing.assert_close(error, rest, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", sorted({*SCALED, "llama", "olmo2"}))
def test_every_family_scales_a_look_as_its_logits(family: str) -> None:
    """Of full rank, and of all tokens in any order, a look is the family's own projection."""
    stack = FamilyStack(tiny_model(family))
    stack._norm.weight.copy_(torch.linspace(0.2, 1.5, stack._norm.weight.shape[0]))
    normed = stack.normed(torch.randn(3, stack._norm.weight.shape[0]))
    exact = stack.project(normed)
    width, vocabulary = normed.shape[1], exact.shape[1]
    torch.testing.assert_close(stack.project_low_rank(normed, width), exact, rtol=1e-4, atol=1e-4)
    order = torch.stack([torch.randperm(vocabulary) for _ in range(3)])
    found = stack.project_tokens(normed, order)
    torch.testing.assert_close(found, exact.gather(1, order), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_scale_of_a_norm_is_read_from_its_outputs(family: str) -> None:
    """Gemma's norms multiply by one plus their weight."""
    norm = FamilyStack(tiny_model(family))._norm
    norm.weight.normal_()
    expected: Tensor = norm.weight + (1.0 if family == "gemma2" else 0.0)
    torch.testing.assert_close(scale_of(norm, 32), expected.double(), rtol=1e-4, atol=1e-4)


def test_a_packed_head_is_looked_at_as_a_plain_one() -> None:
    plain = nn.Linear(16, 30)
    scale, rows = torch.ones(16), torch.randn(4, 16)
    tokens = torch.randint(30, (4, 5))
    looks = [CheapProjection(head, scale) for head in (plain, Packed(plain, 0, 0))]
    for first, second in (
        [look.of_tokens(rows, tokens) for look in looks],
        [look.low_rank(rows, 16) for look in looks],
    ):
        torch.testing.assert_close(first, second)
    torch.testing.assert_close(looks[0].low_rank(rows, 16), plain(rows))


class Adapted(nn.Linear):
    """Stands for an adapter's layer, whose weight is not all that it computes."""


def hooked() -> nn.Linear:
    head = nn.Linear(4, 6)
    head.register_forward_hook(lambda module, inputs, output: output + 1)
    return head


@pytest.mark.parametrize("head", [Adapted(4, 6), hooked(), nn.Linear(4, 6).weight])
def test_other_projections_are_refused(head: Any) -> None:
    with pytest.raises(ValueError, match="computed as a whole only"):
        CheapProjection(head, torch.ones(4))
