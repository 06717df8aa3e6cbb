"""Mamba-2 layers, over transformers' own modules.

This module has the layer adapter and the decoder made of such layers; ``ssd`` has the kernels that
advance convolution windows and SSM states.

Glossary: N token slots, D width, C channels of the convolution (x, B and C together), H heads,
P head width, G groups, S SSM state size, I = H * P. dt is the step size of a head (Mamba-2, arXiv
2405.21060).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.decoders.altered import check_unaltered
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.cpu.products import project_parted, project_rest
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.hooks import any_hooked
from dynamax_lm.decoders.recurrent_layer import Inputs, RecurrentKind, RecurrentLayer
from dynamax_lm.decoders.recurrent_state import Recurrence, Replay, Rows
from dynamax_lm.decoders.scaling import Scaling
from dynamax_lm.decoders.ssd import replay
from dynamax_lm.decoders.state_space import Kernels, StateSpace
from dynamax_lm.decoders.transformers_kernels import best_kernels

_AT_ONCE = 1 << 26
"""Most bytes of states that are replayed together."""


class Mamba2Kind(RecurrentKind):
    """Data that the Mamba-2 layers of a decoder share.

    Args:
        config: of the model, by default a transformers ``Mamba2Config``.
        kernels: advance windows and states.
        costs: FLOPs of a layer; by default the configuration's.
        **names: of :class:`RecurrentKind`.
    """

    def __init__(
        self, config: Any, kernels: Kernels, *, costs: LayerCosts | None = None, **names: Any
    ) -> None:
        own = costs or Mamba2Costs.from_config(config)
        super().__init__(config, kernels, costs=own, key=Mamba2Costs.KEY, **names)

    def withdraw(
        self, layers: Sequence[Mamba2Layer], states: Sequence[Recurrence], kept: Mapping[int, int]
    ) -> None:
        """`Mamba2Layer.withdraw` of ``layers``, one replay for all that ran the same passes."""
        alike: dict[Any, list[int]] = {}
        for place, state in enumerate(states):
            assert state.draft is not None, "begin_draft comes first"
            alike.setdefault((state.ssm.device, *state.draft.pattern(kept)), []).append(place)
        for places in alike.values():
            size = max(1, _AT_ONCE // states[places[0]].ssm[list(kept)].nbytes)
            for start in range(0, len(places), size):
                some = places[start : start + size]
                _withdraw([layers[one] for one in some], [states[one] for one in some], kept)


class Mamba2Layer(RecurrentLayer):
    """A block with a Mamba-2 mixer, such as a ``Mamba2Block``."""

    def __init__(self, block: Any, kind: RecurrentKind, arithmetic: Arithmetic) -> None:
        super().__init__(block, kind, arithmetic)
        self.space = StateSpace.of(self._mixer)
        self._few = kind.kernels.few
        self._norm = self._mixer.norm if getattr(self._mixer, "mamba_rms_norm", True) else None
        self._scale: float = getattr(self._mixer, "ssm_in_multiplier", 1.0)

    @property
    def recordable(self) -> bool:
        """Whether a recorded step can contain the layer: nothing reads the device or is hooked."""
        return self._block.recordable and not any_hooked(self._mixer)

    def linears(self) -> Iterator[LinearPlace]:
        """``in_proj``, whose gate columns are not computed for frozen slots, and the others."""
        yield LinearPlace(self._mixer, "in_proj", cut=self._mixer.intermediate_size)
        yield LinearPlace(self._mixer, "out_proj")
        yield from self._block.linears()

    def new_state(self, batch: int) -> Recurrence:
        """Zeros."""
        mixer = self._mixer
        weight = mixer.conv1d.weight
        shape = (batch, mixer.num_heads, mixer.head_dim, mixer.ssm_state_size)
        return Recurrence(
            [0] * batch,
            weight.new_zeros(batch, mixer.conv_kernel_size, mixer.conv_dim),
            torch.zeros(shape, device=weight.device),
        )

    def _project(self, normed: Tensor) -> tuple[Tensor, Inputs]:
        mixer, cut = self._mixer, self._mixer.intermediate_size
        project = self._arithmetic.project
        gate, rest = project_parted(mixer.in_proj, self._scaled(normed), cut, project)
        factors = self._factors()
        if factors is None:
            return gate, self._inputs(rest)
        return gate * factors[:cut], self._inputs(rest * factors[cut:])

    def state_inputs(self, normed: Tensor) -> Inputs:
        """x, B, C and dt of the mixer's input (M, D); no gate."""
        cut = self._mixer.intermediate_size
        rest = project_rest(
            self._mixer.in_proj, self._scaled(normed), cut, self._arithmetic.product_of
        )
        factors = self._factors()
        return self._inputs(rest if factors is None else rest * factors[cut:])

    def _scaled(self, normed: Tensor) -> Tensor:
        return normed if self._scale == 1.0 else normed * self._scale

    def _factors(self) -> Tensor | None:
        """(I + C + H,) factors of the columns of in_proj, where a mixer has them."""
        found: Tensor | None = getattr(self._mixer, "mup_vector", None)
        return None if found is None else found[0, 0]

    def _inputs(self, projected: Tensor) -> Inputs:
        return Inputs(*projected.split([self._mixer.conv_dim, self._mixer.num_heads], dim=-1))

    def _gated(self, scanned: Tensor, gate: Tensor) -> Tensor:
        if self._norm is None:
            return scanned * F.silu(gate)
        normed: Tensor = self._norm(scanned, gate)
        return normed

    def _advance(
        self, convolved: Tensor, dt: Tensor, ssm: Tensor, rows: Rows | None, *, output: bool
    ) -> Tensor:
        x, b, c = self.split(convolved)
        kernels = self.kind.kernels
        return kernels.step(self.space, ssm, rows, x, dt, b, c if output else None).flatten(1)

    def _continue_rows(
        self, ssm: Tensor, rows: Rows | None, convolved: Tensor, dt: Tensor, *, output: bool
    ) -> Tensor | None:
        if isinstance(rows, Tensor):  # of a recorded step
            return None
        own = range(convolved.shape[0]) if rows is None else rows
        x, b, c = self.split(convolved)
        read_out = c if output else None
        found = self.kind.kernels.continue_rows(self.space, ssm, own, x, dt, b, read_out)
        return None if found is None else found.flatten(2)

    def _scan_state(
        self, convolved: Tensor, dt: Tensor, initial: Tensor | None, *, output: bool
    ) -> tuple[Tensor, Tensor]:
        x, b, c = self.split(convolved)
        read_out = c if output else None
        scanned, final = self.kind.kernels.scan(self.space, x, dt, b, read_out, initial)
        return scanned.flatten(2), final

    def split(self, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., C) into x (..., H, P), B and C (..., G, S)."""
        mixer = self._mixer
        groups = mixer.n_groups * mixer.ssm_state_size
        x, b, c = xbc.split([mixer.intermediate_size, groups, groups], dim=-1)
        return (
            x.unflatten(-1, (mixer.num_heads, mixer.head_dim)),
            b.unflatten(-1, (mixer.n_groups, mixer.ssm_state_size)),
            c.unflatten(-1, (mixer.n_groups, mixer.ssm_state_size)),
        )


def _withdraw(
    layers: Sequence[Mamba2Layer], states: Sequence[Recurrence], kept: Mapping[int, int]
) -> None:
    rows = list(kept)
    inputs = Replay.of(states, kept)
    x, b, _ = layers[0].split(inputs.convolved)
    drafts = [state.draft for state in states if state.draft is not None]
    if rows == list(range(len(states[0].tokens))):
        before = torch.cat([draft.ssm for draft in drafts])
    else:
        before = torch.cat([draft.ssm[rows] for draft in drafts])
    after = replay([layer.space for layer in layers], x, inputs.dt, b, before)
    for state, own in zip(states, after.chunk(len(states)), strict=True):
        state.ssm = state.with_rows(state.ssm, rows, own)


class Mamba2Stack(Decoder):
    """A ``Mamba2ForCausalLM``.

    >>> from transformers import Mamba2Config, Mamba2ForCausalLM
    >>> widths = {"hidden_size": 16, "state_size": 8, "num_heads": 4, "head_dim": 8, "n_groups": 1}
    >>> config = Mamba2Config(vocab_size=32, num_hidden_layers=3, **widths)
    >>> stack = Mamba2Stack(Mamba2ForCausalLM(config).eval())
    >>> stack.n_layers, stack.vocab_size
    (3, 32)

    Args:
        model: the loaded model, in evaluation mode.

    Attributes:
        decoder: the model without its vocabulary head.
        kernels: advance windows and states, the fastest for the model's device.
    """

    def __init__(self, model: Any) -> None:
        check_unaltered(model)
        self.decoder = model.backbone
        self.kernels = best_kernels(self.decoder.embeddings.weight.device)
        arithmetic = Arithmetic()
        kind = Mamba2Kind(model.config, self.kernels)
        super().__init__(
            [Mamba2Layer(block, kind, arithmetic) for block in self.decoder.layers],
            embedding=self.decoder.embeddings,
            norm=self.decoder.norm_f,
            head=LinearPlace(model, "lm_head"),
            vocab_size=model.config.vocab_size,
            arithmetic=arithmetic,
            scaling=Scaling(float32=True),
        )
