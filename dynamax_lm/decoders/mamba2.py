"""Mamba-2 layers, over transformers' own modules.

This module has the layer adapter and the decoder made of such layers; ``ssd`` has the kernels that
advance convolution windows and SSM states.

Glossary: N running cells, D width, C channels of the convolution (x, B and C together), K its
width, H heads, P head width, G groups, S SSM state size. dt is the step size of a head (Mamba-2,
arXiv 2405.21060).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.skipped_states import registered
from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.adapter import SkipPolicy
from dynamax_lm.decoders.altered import check_unaltered
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.cpu.chosen_products import Slot
from dynamax_lm.decoders.cpu.products import project_parted, project_rest
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.recurrent_state import Recurrence, RecurrentContext
from dynamax_lm.decoders.rows import RowLengths
from dynamax_lm.decoders.ssd import TRUSTED, Kernels, StateSpace, best_kernels

FREEZE = "freeze"

_FEW = 8
"""Number of tokens up to which the recurrence is faster than the chunked form."""


class Inputs(NamedTuple):
    """Inputs of the state for some tokens: ``xbc`` (N, C) and ``dt`` (N, H), before activation."""

    xbc: Tensor
    dt: Tensor


class Mamba2Kind:
    """Data that the Mamba-2 layers of a decoder share.

    Args:
        config: a transformers ``Mamba2Config``.
        kernels: advance windows and states.
    """

    def __init__(self, config: Any, kernels: Kernels) -> None:
        self._config = config
        self.kernels = kernels

    @property
    def costs(self) -> Mamba2Costs:
        """FLOPs of a layer."""
        return Mamba2Costs.from_config(self._config)

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> RecurrentContext:
        """Start a pass."""
        outside = registered(skipped_state)
        shorter = outside.facts.shorter if outside else skipped_state in {FREEZE, RECOMPUTE}
        return RecurrentContext(run, rows, shorter=shorter)


class Mamba2Layer:
    """A ``Mamba2Block``.

    Args:
        block: the module.
        kind: data shared with other layers.
        arithmetic: matrix products and norms.
    """

    def __init__(self, block: Any, kind: Mamba2Kind, arithmetic: Arithmetic) -> None:
        self.kind = kind
        self._block, self._mixer = block, block.mixer
        self._space = StateSpace.of(block.mixer)
        self._arithmetic = arithmetic

    def linears(self) -> Iterator[Slot]:
        """``in_proj``, whose gate columns are not computed for frozen cells, and ``out_proj``."""
        yield Slot(self._mixer, "in_proj", cut=self._mixer.intermediate_size)
        yield Slot(self._mixer, "out_proj")

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

    def run(
        self,
        hidden: Tensor,
        state: Recurrence,
        context: RecurrentContext,
        skipped: Inputs | None,
    ) -> Tensor:
        """(N, D) of the running cells (N, D); the state advances over them and the frozen ones.

        Raises:
            ValueError: a policy gave no inputs for frozen cells that the layer sees, or some for
                cells that it does not see.
        """
        if (skipped is not None) != context.sees_frozen:
            raise ValueError(
                "skip of a skipped-state policy returns what layer.propagate does, or None if the "
                "policy's facts have shorter=True"
            )
        for row, count in zip(context.run.chunk.rows, context.reached(), strict=True):
            state.tokens[row] += count
        if not hidden.shape[0] and skipped is None:
            return hidden
        block, mixer, project = self._block, self._mixer, self._arithmetic.project
        hidden = hidden.to(block.norm.weight.device)
        normed = self._arithmetic.normalise(block.norm, hidden.to(dtype=block.norm.weight.dtype))
        normed = context.masked(normed)
        gate, inputs = project_parted(mixer.in_proj, normed, mixer.intermediate_size, project)
        running = self._inputs(inputs)
        if mixer.in_proj.bias is not None:  # it would reach the convolution from the padding
            running = running._replace(xbc=context.masked(running.xbc))
        if state.draft is not None and not context.run.chunk.prefill:
            state.draft.add(context.cell_rows(), running.xbc, running.dt)
        one_token = not context.run.chunk.prefill and context.places()[2] == 1
        scanned = (self._step if one_token else self._scan)(running, skipped, state, context)
        if not hidden.shape[0]:
            return hidden
        residual = hidden.to(torch.float32) if block.residual_in_fp32 else hidden
        mixed: Tensor = residual + project(
            mixer.out_proj, mixer.norm(scanned, gate).to(normed.dtype)
        )
        return mixed

    def withdraw(self, state: Recurrence, kept: Mapping[int, int]) -> None:
        """The state before the draft, advanced over the recorded inputs of the tokens that stay."""
        draft, rows = state.draft, list(kept)
        assert draft is not None, "begin_draft comes first"
        for row, count in kept.items():
            state.tokens[row] -= len(draft.inputs[row]) - count
        width = max(kept.values())
        logs = [draft.inputs[row][:count] for row, count in kept.items()]
        some_xbc, some_dt = logs[0][0]
        xbc = some_xbc.new_zeros(len(rows), width, *some_xbc.shape)
        dt = some_dt.new_full((len(rows), width, *some_dt.shape), -torch.inf)  # no token: no step
        for place, log in enumerate(logs):
            xbc[place, : len(log)] = torch.stack([one for one, _ in log])
            dt[place, : len(log)] = torch.stack([one for _, one in log])
        lengths = torch.tensor(list(kept.values()), device=xbc.device)
        convolved, window = self._slide(draft.conv[rows], xbc, lengths)
        state.conv[rows] = window.to(state.conv.dtype)
        x, b, c = self._split(convolved)
        if width <= _FEW:
            state.ssm[rows] = draft.ssm[rows]
            self._recur(state.ssm, rows, x, dt, b, None)
            return
        _, final = self.kind.kernels.scan(self._space, x, dt, b, c, draft.ssm[rows])
        state.ssm[rows] = final.to(state.ssm.dtype)

    def propagate(
        self, state: Recurrence, below: Recurrence | None, context: RecurrentContext
    ) -> Inputs:
        """x, B, C and dt of the frozen cells from their hidden states at the exit; no gate."""
        del state, below
        frozen, weight = context.run.frozen_hidden, self._block.norm.weight
        assert frozen is not None
        normed = self._arithmetic.normalise(
            self._block.norm, frozen.to(weight.device, weight.dtype)
        )
        return self._inputs(
            project_rest(self._mixer.in_proj, normed, self._mixer.intermediate_size)
        )

    def freeze(
        self, state: Recurrence, below: Recurrence | None, context: RecurrentContext
    ) -> None:
        """Nothing: window and state do not change (DYNAMAX's skip)."""

    skipped: ClassVar[Mapping[str, SkipPolicy]] = {"propagate": propagate, FREEZE: freeze}

    def _inputs(self, projected: Tensor) -> Inputs:
        return Inputs(*projected.split([self._mixer.conv_dim, self._mixer.num_heads], dim=-1))

    def _step(
        self,
        running: Inputs,
        frozen: Inputs | None,
        state: Recurrence,
        context: RecurrentContext,
    ) -> Tensor:
        """(N, H * P) one token a row: the recurrence. Frozen rows advance without an output."""
        alive, gone = context.step_rows()
        if frozen is not None:
            self._advance(frozen, gone, state, output=False)
        if not running.xbc.shape[0]:
            return running.xbc.new_empty(0, self._mixer.intermediate_size)
        return self._advance(running, alive, state, output=True).flatten(1)

    def _advance(
        self, inputs: Inputs, rows: list[int] | None, state: Recurrence, *, output: bool
    ) -> Tensor:
        """(N, H, P) one token for each of the state's ``rows``."""
        kernels, window = self.kind.kernels, state.conv
        some = window if rows is None else window[rows]
        convolved = kernels.convolve_step(self._space, some, inputs.xbc)
        if rows is not None:
            window[rows] = some
        x, b, c = self._split(convolved)
        return kernels.step(self._space, state.ssm, rows, x, inputs.dt, b, c if output else None)

    def _scan(
        self,
        running: Inputs,
        frozen: Inputs | None,
        state: Recurrence,
        context: RecurrentContext,
    ) -> Tensor:
        """(N, H * P) many tokens a row: the chunked form over a rectangle of tokens."""
        run, mixer = context.run, self._mixer
        batch, device = len(run.chunk.rows), running.xbc.device
        places, lengths, width = context.places()
        places = places.to(device)
        if run.whole:
            xbc, dt = running.xbc, running.dt
        else:
            xbc = running.xbc.new_zeros(batch * width, mixer.conv_dim)
            # softplus(-inf) = 0: an empty cell neither decays the state nor adds to it.
            dt = running.dt.new_full((batch * width, mixer.num_heads), -torch.inf)
            xbc[places], dt[places] = running.xbc, running.dt
            if frozen is not None:
                gone = run.frozen.to(device)
                xbc[gone], dt[gone] = frozen.xbc.to(xbc.dtype), frozen.dt.to(dt.dtype)
        convolved = self._convolve(xbc.unflatten(0, (batch, width)), lengths, state, context)
        x, b, c = self._split(convolved)
        rows = None if context.all_rows else context.state_rows.to(device)
        dt = dt.unflatten(0, (batch, width))
        few = state.draft is not None or bool(run.chunk.known)
        if few and width <= _FEW:
            some = None if rows is None else list(run.chunk.rows)
            output = self._recur(state.ssm, some, x, dt, b, c)
            flat = output.flatten(0, 1).flatten(1)
            return flat if run.whole else flat[places]
        initial = None
        if not run.chunk.prefill:
            initial = state.ssm if rows is None else state.ssm[rows]
        output, final = self.kind.kernels.scan(self._space, x, dt, b, c, initial)
        if rows is None:
            state.ssm = final.to(state.ssm.dtype)
        else:
            state.ssm[rows] = final.to(state.ssm.dtype)
        flat = output.reshape(batch * width, -1)
        return flat if run.whole else flat[places]

    def _recur(
        self,
        ssm: Tensor,
        rows: list[int] | None,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor | None,
    ) -> Tensor:
        """(B, T, H, P) the recurrence over a few tokens of ``rows``; without ``c`` no output."""
        outputs = [
            self.kind.kernels.step(
                self._space,
                ssm,
                rows,
                x[:, token],
                dt[:, token],
                b[:, token],
                None if c is None else c[:, token],
            )
            for token in range(x.shape[1])
        ]
        return x if c is None else torch.stack(outputs, dim=1)

    def _split(self, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., C) into x (..., H, P), B and C (..., G, S)."""
        mixer = self._mixer
        groups = mixer.n_groups * mixer.ssm_state_size
        x, b, c = xbc.split([mixer.intermediate_size, groups, groups], dim=-1)
        return (
            x.unflatten(-1, (mixer.num_heads, mixer.head_dim)),
            b.unflatten(-1, (mixer.n_groups, mixer.ssm_state_size)),
            c.unflatten(-1, (mixer.n_groups, mixer.ssm_state_size)),
        )

    def _convolve(
        self, xbc: Tensor, lengths: Tensor, state: Recurrence, context: RecurrentContext
    ) -> Tensor:
        """(B, T, C) the convolution's output for (B, T, C) inputs; its window advances.

        ``lengths`` (B,): real tokens of each row, at the left of a row (at its right in a prefill).
        """
        window = state.conv
        rows = context.state_rows.to(xbc.device)
        if context.run.chunk.prefill:
            width, kernel = xbc.shape[1], window.shape[1]
            last = F.pad(xbc, (0, 0, max(kernel - width, 0), 0))[:, -kernel:]
            convolved = self.kind.kernels.convolve(self._space, xbc, width)
        else:
            convolved, last = self._slide(window[rows], xbc, lengths)
        window[rows] = last.to(window.dtype)
        if context.mask is not None:
            convolved = (convolved * context.mask.to(convolved.device)).to(convolved.dtype)
        return convolved

    def _slide(self, window: Tensor, xbc: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) the convolution after ``window`` (B, K, C), and the (B, K, C) window then."""
        width, kernel = xbc.shape[1], window.shape[1]
        seen = torch.cat([window.to(xbc.dtype), xbc], dim=1)
        ends = lengths.to(xbc.device)[:, None] + torch.arange(kernel, device=xbc.device)
        last = seen.gather(1, ends[:, :, None].expand(-1, -1, seen.shape[2]))
        return self.kind.kernels.convolve(self._space, seen, width), last


class Mamba2Stack(Decoder):
    """A ``Mamba2ForCausalLM``.

    Args:
        model: the loaded model, in evaluation mode.
        kernels: advance windows and states; by default the fastest for the model's device.

    Attributes:
        decoder: the model without its vocabulary head.
        kernels: in use. With the trusted ones, every operation is transformers' own.
    """

    def __init__(self, model: Any, kernels: Kernels | None = None) -> None:
        check_unaltered(model)
        self.decoder = model.backbone
        self.kernels = kernels or best_kernels(self.decoder.embeddings.weight.device)
        arithmetic = Arithmetic(self.kernels is TRUSTED)
        kind = Mamba2Kind(model.config, self.kernels)
        super().__init__(
            [Mamba2Layer(block, kind, arithmetic) for block in self.decoder.layers],
            embedding=self.decoder.embeddings,
            norm=self.decoder.norm_f,
            head=Slot(model, "lm_head"),
            vocab_size=model.config.vocab_size,
            arithmetic=arithmetic,
        )
        self._head_dtype: torch.dtype = model.lm_head.weight.dtype

    def unembed(self, hidden: Tensor) -> Tensor:
        """(N, V) logits of ``hidden`` (N, D), float32 as in transformers' own forward."""
        normed = self.normed(hidden).to(self._head_dtype)
        return self.arithmetic.project(self.lm_head, normed).float()
