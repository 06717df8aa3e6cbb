"""A decoder block around its mixer of tokens: norms, residual sums and the feed-forward module.

A block is described by the names of what it has; the mixer (attention or a state-space layer) is
the adapter's part.

Glossary: N token slots, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.cpu.products import project_trusted
from dynamax_lm.decoders.description import BlockNames
from dynamax_lm.decoders.hooks import any_hooked, is_hooked

_GATED = ("gate_proj", "up_proj", "down_proj")


class Block:
    """The parts of one block.

    Args:
        module: transformers' block.
        names: where its parts are.
        config: of the model.
        arithmetic: matrix products and norms.
    """

    def __init__(self, module: Any, names: BlockNames, config: Any, arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        self._norm, self._out_norm, self._ff_norm, self._ff_out_norm = (
            getattr(module, name) if name else None
            for name in (names.norm, names.out_norm, names.ff_norm, names.ff_out_norm)
        )
        self._feed_forward = [
            part for name in names.feed_forward if (part := getattr(module, name, None)) is not None
        ]
        own = [type(part).__module__ == type(module).__module__ for part in self._feed_forward]
        names_of_products = [
            all(hasattr(part, one) for one in _GATED) for part in self._feed_forward
        ]
        self._gated = names.gated and own == names_of_products == [True]
        self._scale = float(getattr(config, names.residual)) if names.residual else 1.0
        self._casts = names.casts
        self._wide = bool(names.casts and getattr(module, "residual_in_fp32", False))
        norms = (self._norm, self._out_norm, self._ff_norm)
        self._first: Any = next(norm for norm in norms if norm is not None)

    @property
    def recordable(self) -> bool:
        """Whether feed-forward modules are made of linear layers alone, and nothing is hooked."""
        norms = (self._norm, self._out_norm, self._ff_norm, self._ff_out_norm)
        dense = all(_is_dense(part) for part in self._feed_forward)
        return dense and not any_hooked(*norms, *self._feed_forward)

    @property
    def reference(self) -> Tensor:
        """A weight with the block's device and number format."""
        weight: Tensor = self._first.weight
        return weight

    def linears(self) -> Iterator[LinearPlace]:
        """Linear layers of a gated feed-forward module."""
        if self._gated:
            for name in _GATED:
                yield LinearPlace(self._feed_forward[0], name)

    def arrive(self, hidden: Tensor) -> Tensor:
        """(N, D) ``hidden`` on the block's device."""
        return hidden.to(self._first.weight.device)

    def read(self, hidden: Tensor) -> Tensor:
        """(N, D) the mixer's input for the residual stream ``hidden`` (N, D)."""
        if self._norm is None:
            return hidden
        if self._casts:
            hidden = hidden.to(dtype=self._norm.weight.dtype)
        return self._arithmetic.normalise(self._norm, hidden)

    def write(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """(N, D) the residual stream after the block, from its input and the mixer's output."""
        if self._wide:
            hidden = hidden.to(torch.float32)
        hidden = self._add(hidden, mixed, self._out_norm)
        if not self._feed_forward:
            return hidden
        return self.feed(hidden)

    def feed(self, hidden: Tensor) -> Tensor:
        """(N, D) the residual stream after the feed-forward module."""
        rows = hidden
        if self._ff_norm is not None:
            rows = self._arithmetic.normalise(self._ff_norm, hidden)
        return self._add(hidden, self._fed(rows), self._ff_out_norm)

    def _add(self, hidden: Tensor, new: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is not None:
            new = self._arithmetic.normalise(norm, new)
        return hidden + (new if self._scale == 1.0 else new * self._scale)

    def _fed(self, rows: Tensor) -> Tensor:
        """(N, D) the feed-forward module; a gated one with the chosen products."""
        arithmetic = self._arithmetic
        first, *others = self._feed_forward
        if not self._gated or is_hooked(first):
            fed = _call(first, rows)
            for other in others:
                fed = fed + _call(other, rows)
            return fed
        gate = first.act_fn(arithmetic.project(first.gate_proj, rows))
        gate *= arithmetic.project(first.up_proj, rows)  # in place: as wide as all else together
        return arithmetic.project(first.down_proj, gate)


def _is_dense(module: nn.Module) -> bool:
    """Whether ``module`` has linear layers and functions alone: no experts with a router."""
    return all(
        isinstance(part, nn.Linear) or next(part.parameters(recurse=False), None) is None
        for part in module.modules()
    )


def _call(module: nn.Module, rows: Tensor) -> Tensor:
    """``module`` of (N, D) rows, as of one sequence: experts need three dimensions."""
    return project_trusted(module, rows[None])[0]
