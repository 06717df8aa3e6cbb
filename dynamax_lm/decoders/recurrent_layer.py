"""Layers with a convolution and a state-space recurrence: what Mamba-1 and Mamba-2 share.

This module knows how a layer's window and state advance over the slots of a pass, are returned to
an earlier token of a draft, and take in frozen slots. A subclass has the projections before the
convolution and the recurrence after it.

Glossary: B rows of a token batch, T tokens of its longest row, N running slots, M frozen slots,
D width, C channels of the convolution, K its width, I channels of the output, R raw step sizes of a
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.core.skipped_states import for_kind, registered
from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.adapter import SkipPolicy
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.block import Block
from dynamax_lm.decoders.description import STATE_SPACE, BlockNames
from dynamax_lm.decoders.recorded_steps import StepRows
from dynamax_lm.decoders.recurrent_context import RecurrentContext, RecurrentStepContext
from dynamax_lm.decoders.recurrent_state import Recurrence, Replay, Rows, StateInputs
from dynamax_lm.decoders.rows import RowLengths
from dynamax_lm.decoders.state_space import Kernels, StateSpace

FREEZE = "freeze"


class Inputs(NamedTuple):
    """Inputs of the state for some tokens, before activation.

    Attributes:
        xbc: (N, C) of the convolution.
        dt: (N, R) raw step sizes, or what is added to them; -inf stands for no token.
    """

    xbc: Tensor
    dt: Tensor


class RecurrentKind:
    """Data that the recurrent layers of one kind share.

    Args:
        config: of the model.
        kernels: advance windows and states.
        costs: FLOPs of a layer.
        key: the kind's name in a skipped state given by kind.
        block: where the parts of a block are.
        mixer: the name of its state-space module.
    """

    def __init__(
        self,
        config: Any,
        kernels: Kernels,
        *,
        costs: LayerCosts,
        key: str,
        block: BlockNames = STATE_SPACE,
        mixer: str = "mixer",
    ) -> None:
        self.config, self.kernels, self.block, self.mixer = config, kernels, block, mixer
        self._costs, self._key = costs, key

    @property
    def costs(self) -> LayerCosts:
        """FLOPs of a layer."""
        return self._costs

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> RecurrentContext:
        """Start a pass."""
        return RecurrentContext(run, rows, shorter=self.shorter(skipped_state))

    def begin_step(
        self, run: ForwardPass, step: StepRows, skipped_state: str
    ) -> RecurrentStepContext:
        """Start a pass over the rows of a recorded step."""
        return RecurrentStepContext(run, step, shorter=self.shorter(skipped_state))

    def shorter(self, skipped_state: str) -> bool:
        """Whether a layer's input lacks the tokens that exited below it."""
        if outside := registered(skipped_state):
            return outside.facts.shorter
        return for_kind(skipped_state, self._key) in {FREEZE, RECOMPUTE}


class RecurrentLayer:
    """A block with a recurrent mixer.

    Args:
        module: the block.
        kind: data shared with other layers.
        arithmetic: matrix products and norms.
    """

    space: StateSpace
    _few: int
    """Number of tokens up to which the recurrence is faster than ``_scan_state``."""

    def __init__(self, module: Any, kind: RecurrentKind, arithmetic: Arithmetic) -> None:
        self.kind = kind
        self._block = Block(module, kind.block, kind.config, arithmetic)
        self._mixer = getattr(module, kind.mixer)
        self._arithmetic = arithmetic

    # -- of a kind of recurrence ----------------------------------------------------------------

    def _project(self, normed: Tensor) -> tuple[Tensor, Inputs]:
        """(N, I) gate and the state's inputs, of the mixer's input (N, D)."""
        raise NotImplementedError

    def state_inputs(self, normed: Tensor) -> Inputs:
        """The state's inputs alone, of the mixer's input (M, D) for frozen slots."""
        raise NotImplementedError

    def _continue_rows(
        self, ssm: Tensor, rows: Rows | None, convolved: Tensor, dt: Tensor, *, output: bool
    ) -> Tensor | None:
        """(B, T, I) a few tokens for each of ``rows`` of ``ssm``, which advances in place.

        ``None``, and nothing done, where ``_scan_state`` is as fast.
        """
        del ssm, rows, convolved, dt, output
        return None

    def _advance(
        self, convolved: Tensor, dt: Tensor, ssm: Tensor, rows: Rows | None, *, output: bool
    ) -> Tensor:
        """(N, I) one token for each of ``rows`` of ``ssm``, which advances in place.

        Without ``output``, anything.
        """
        raise NotImplementedError

    def _scan_state(
        self, convolved: Tensor, dt: Tensor, initial: Tensor | None, *, output: bool
    ) -> tuple[Tensor, Tensor]:
        """(B, T, I) of many tokens a row, and the state after them; ``None``: it starts at zero.

        Without ``output``, anything and the state.
        """
        raise NotImplementedError

    def _gated(self, scanned: Tensor, gate: Tensor) -> Tensor:
        """(N, I) the input of ``out_proj``."""
        raise NotImplementedError

    # -- of every kind --------------------------------------------------------------------------

    def run(
        self, hidden: Tensor, state: Recurrence, context: RecurrentContext, skipped: Inputs | None
    ) -> Tensor:
        """(N, D) of the running slots (N, D); the state advances over them and the frozen ones.

        Raises:
            ValueError: a policy gave no inputs for frozen slots that the layer sees, or some for
                slots that it does not see.
        """
        hidden = self._block.arrive(hidden)
        mixed = self.mix(self._block.read(hidden), state, context, skipped)
        return self._block.write(hidden, mixed) if hidden.shape[0] else hidden

    def mix(
        self, normed: Tensor, state: Recurrence, context: RecurrentContext, skipped: Inputs | None
    ) -> Tensor:
        """(N, D) the mixer's output for its input ``normed`` (N, D); for errors see :meth:`run`."""
        if (skipped is not None) != context.sees_frozen:
            raise ValueError(
                "skip of a skipped-state policy returns what layer.propagate does, or None if the "
                "policy's facts have shorter=True"
            )
        context.count(state)
        if not normed.shape[0] and skipped is None:
            return normed
        normed = context.masked(normed)
        gate, running = self._project(normed)
        if self._mixer.in_proj.bias is not None:  # it would reach the convolution from the padding
            running = running._replace(xbc=context.masked(running.xbc))
        one_token = not context.run.token_batch.prefill and context.places()[2] == 1
        scanned = (self._step if one_token else self._scan)(running, skipped, state, context)
        if not normed.shape[0]:
            return normed
        return self._arithmetic.project(
            self._mixer.out_proj, self._gated(scanned, gate).to(normed.dtype)
        )

    def withdraw(self, state: Recurrence, kept: Mapping[int, int]) -> None:
        """The state before the draft, advanced over the recorded inputs of the tokens that stay."""
        draft, rows = state.draft, list(kept)
        assert draft is not None, "begin_draft comes first"
        replay = Replay.of([state], kept)
        before = draft.ssm[rows]
        if replay.dt.shape[1] <= self._few:
            state.ssm[rows] = before
            self._recur(state.ssm, rows, replay.convolved, replay.dt, output=False)
        else:
            _, final = self._scan_state(replay.convolved, replay.dt, before, output=False)
            state.ssm = state.with_rows(state.ssm, rows, final)

    def propagate(
        self, state: Recurrence, below: Recurrence | None, context: RecurrentContext
    ) -> Inputs:
        """The state's inputs of the frozen slots from their hidden states at the exit; no gate."""
        del state, below
        frozen = context.run.frozen_hidden
        assert frozen is not None
        return self.state_inputs(self._block.read(self._block.arrive(frozen)))

    def freeze(
        self, state: Recurrence, below: Recurrence | None, context: RecurrentContext
    ) -> None:
        """Nothing: window and state do not change (DYNAMAX's skip)."""

    skipped: ClassVar[Mapping[str, SkipPolicy]] = {"propagate": propagate, FREEZE: freeze}

    def _step(
        self,
        running: Inputs,
        frozen: Inputs | None,
        state: Recurrence,
        context: RecurrentContext,
    ) -> Tensor:
        """(N, I) one token a row: the recurrence. Frozen rows advance without an output."""
        alive, exited = context.step_rows()
        if frozen is not None:
            self._take_in(frozen, exited, state, output=False)
        if not running.xbc.shape[0]:
            return running.xbc.new_empty(0, self._mixer.intermediate_size)
        return self._take_in(running, alive, state, output=True)

    def _take_in(
        self, inputs: Inputs, rows: Rows | None, state: Recurrence, *, output: bool
    ) -> Tensor:
        """(N, I) one token for each of the state's ``rows``; ``None``: of all, in order."""
        window = state.conv
        some = window if rows is None else window[rows]
        convolved = self.kind.kernels.convolve_step(self.space, some, inputs.xbc)
        if rows is not None:
            window[rows] = some
        if state.draft is not None:
            assert not isinstance(rows, Tensor), "recorded steps have no drafts"
            owners = list(range(len(state.tokens))) if rows is None else rows
            state.draft.add(owners, StateInputs(inputs.xbc, convolved, inputs.dt))
        return self._advance(convolved, inputs.dt, state.ssm, rows, output=output)

    def _scan(
        self,
        running: Inputs,
        frozen: Inputs | None,
        state: Recurrence,
        context: RecurrentContext,
    ) -> Tensor:
        """(N, I) many tokens a row: the chunked form over a rectangle of tokens."""
        run = context.run
        batch, device = len(run.token_batch.rows), running.xbc.device
        places, lengths, width = context.places()
        places = places.to(device)
        if run.whole:
            xbc, dt = running.xbc, running.dt
        else:
            xbc = running.xbc.new_zeros(batch * width, running.xbc.shape[1])
            # softplus(-inf) = 0: an empty slot neither decays the state nor adds to it.
            dt = running.dt.new_full((batch * width, running.dt.shape[1]), -torch.inf)
            xbc[places], dt[places] = running.xbc, running.dt
            if frozen is not None:
                exited = run.frozen.to(device)
                xbc[exited], dt[exited] = frozen.xbc.to(xbc.dtype), frozen.dt.to(dt.dtype)
        convolved = self._convolve(xbc.unflatten(0, (batch, width)), lengths, state, context)
        if state.draft is not None and not run.token_batch.prefill:
            flat = convolved.flatten(0, 1)
            some = StateInputs(running.xbc, flat if run.whole else flat[places], running.dt)
            state.draft.add(context.slot_rows(), some)
        rows = None if context.all_rows else context.state_rows.to(device)
        dt = dt.unflatten(0, (batch, width))
        few = state.draft is not None or bool(run.token_batch.known)
        if few and width <= self._few:
            own = context.batch_rows()
            flat = self._recur(state.ssm, own, convolved, dt, output=True).flatten(0, 1)
            return flat if run.whole else flat[places]
        read = bool(running.xbc.shape[0])
        initial = None
        if not run.token_batch.prefill:
            continued = self._continue_rows(
                state.ssm, context.batch_rows(), convolved, dt, output=read
            )
            if continued is not None:
                flat = continued.flatten(0, 1)
                return flat if run.whole or not read else flat[places]
            initial = state.ssm if rows is None else state.ssm[rows]
        output, final = self._scan_state(convolved, dt, initial, output=read)
        if rows is None and context.in_place:
            state.ssm.copy_(final)
        elif rows is None:
            state.ssm = final.to(state.ssm.dtype)
        else:
            state.ssm[rows] = final.to(state.ssm.dtype)
        flat = output.reshape(batch * width, -1)
        return flat if run.whole or not read else flat[places]

    def _recur(
        self, ssm: Tensor, rows: Rows | None, convolved: Tensor, dt: Tensor, *, output: bool
    ) -> Tensor:
        """(B, T, I) the recurrence over a few tokens of ``rows``; without ``output``, anything."""
        tokens = [
            self._advance(convolved[:, token], dt[:, token], ssm, rows, output=output)
            for token in range(convolved.shape[1])
        ]
        return torch.stack(tokens, dim=1) if output else convolved

    def _convolve(
        self, xbc: Tensor, lengths: Tensor, state: Recurrence, context: RecurrentContext
    ) -> Tensor:
        """(B, T, C) the convolution's output for (B, T, C) inputs; its window advances.

        ``lengths`` (B,): real tokens of each row, at the left of a row (at its right in a prefill).
        """
        window = state.conv
        rows = context.state_rows.to(xbc.device)
        if context.all_rows and context.run.whole and not context.run.token_batch.prefill:
            seen = torch.cat([window.to(xbc.dtype), xbc], dim=1)
            window.copy_(seen[:, xbc.shape[1] :])
            return self.kind.kernels.convolve(self.space, seen, xbc.shape[1])
        if context.run.token_batch.prefill:
            width, kernel = xbc.shape[1], window.shape[1]
            last = F.pad(xbc, (0, 0, max(kernel - width, 0), 0))[:, -kernel:]
            convolved = self.kind.kernels.convolve(self.space, xbc, width)
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
        return self.kind.kernels.convolve(self.space, seen, width), last
