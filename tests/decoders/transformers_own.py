"""Decoders that run transformers' own norms and kernels, to compare with its forward exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor, nn

from dynamax_lm.decoders import arithmetic, family_stack, mamba2
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.transformers_kernels import TRUSTED


@contextmanager
def transformers_own() -> Iterator[None]:
    """Inside the block, decoders are built so; products are `F.linear` until others are chosen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "normalise", _normalise)
        for module in (mamba2, family_stack):
            patch.setattr(module, "best_kernels", lambda device: TRUSTED)
        yield


def own_arithmetic() -> Arithmetic:
    """Of layers that are put together by hand."""
    with transformers_own():
        return Arithmetic()


def _normalise(norm: nn.Module, hidden: Tensor) -> Tensor:
    normed: Tensor = norm(hidden)
    return normed
