"""Mamba-2's convolution and state space in plain torch.

The arithmetic of transformers' functions as batched matrix products (Mamba-2's SSD algorithm, arXiv
2405.21060): B and C are never repeated over the heads of a group, the sequence is divided into
chunks that fit a processor's cache, no chunk is padded, and decays are summed in float64, so that
their differences are exact.

Glossary: B rows, T tokens, C channels of the convolution, K its width, H heads, P head width, G
groups, R = H / G heads of a group, S state size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.activations import ACT2FN

from dynamax_lm.decoders.state_space import Kernels, StateSpace

_CHUNK = 64
"""Tokens in a chunk: their scores of all heads fit a processor's second-level cache."""

_SHORT = 32
"""Tokens of a continuation up to which a scan needs no chunks, and decays are summed in float32."""

_WORTH_BLOCKS = 1 << 18
"""Bytes of a row's state from which a step runs group by group on a CPU: 2.2 times faster."""


_WORTH_ROWS = 1 << 16
"""Bytes of a row's state from which a few tokens run row by row on a CPU: up to 10 times faster."""


class Plain:
    """Plain torch, as batched matrix products."""

    few = 1

    def scan(
        self,
        space: StateSpace,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor | None,
        initial: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        rows, tokens, heads, width = x.shape
        groups, size = b.shape[2:]
        wide = torch.promote_types(x.dtype, torch.float32)
        if initial is not None and tokens <= _SHORT:
            return _short_scan(space, x.to(wide), dt, b.to(wide), c, initial.to(wide))
        x = x.to(wide)
        b = b.to(wide).transpose(1, 2)  # (B, G, T, S)
        c = None if c is None else c.to(wide).transpose(1, 2)
        steps = space.steps(dt).to(wide)
        value = x * steps[..., None]
        output = x * space.mixer.D.to(wide)[:, None]
        fading = (steps * space.decay.to(wide)).transpose(1, 2)  # (B, H, T)
        by_group = (rows, groups, heads // groups)
        joined = (rows, groups, heads // groups * width)
        state = initial if initial is None else initial.to(wide)
        for start in range(0, tokens, _CHUNK):
            part = slice(start, min(start + _CHUNK, tokens))
            count = part.stop - start
            b_part, v = b[:, :, part], value[:, part]
            since = fading[:, :, part].double().cumsum(-1)  # (B, H, Q) from the start of the chunk
            if c is not None:
                # Within the chunk: (C B^T) shared by a group, faded by each head from source to
                # target.
                c_part = c[:, :, part]
                fade = (since[..., :, None] - since[..., None, :]).to(wide).clamp_(max=0.0).exp_()
                scores = (c_part @ b_part.transpose(2, 3)).tril_()
                fade = fade.view(*by_group, count, count).mul_(scores[:, :, None])
                inside = fade.view(rows, heads, count, count) @ v.transpose(1, 2)  # (B, H, Q, P)
                output[:, part] += inside.transpose(1, 2)
            if c is not None and state is not None:  # contribution of the state before the chunk
                across = (c_part @ state.view(*joined, size).transpose(2, 3)).unflatten(
                    3, (heads // groups, width)
                )
                across = (
                    across * since.to(wide).exp().view(*by_group, count).transpose(2, 3)[..., None]
                )
                output[:, part] += across.transpose(1, 2).flatten(2, 3)
            decay = (since[..., -1:] - since).to(wide).exp()  # of each token to the chunk's end
            kept = (v * decay.transpose(1, 2)[..., None]).view(rows, count, *joined[1:])
            added = kept.permute(0, 2, 3, 1) @ b_part  # (B, G, R * P, S)
            if state is not None:
                added.view(*x.shape[::2], width, size).add_(
                    state * since[..., -1:].to(wide).exp()[..., None]
                )
            state = added.view(rows, heads, width, size)
        assert state is not None
        return output, state

    def step(
        self,
        space: StateSpace,
        state: Tensor,
        rows: list[int] | Tensor | None,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor | None,
    ) -> Tensor:
        if rows is not None and (isinstance(rows, Tensor) or state.device.type != "cpu"):
            some = state[rows]
            output = self.step(space, some, None, x, dt, b, c)
            state[rows] = some
            return output
        wide = state.dtype
        count, heads, width = x.shape
        groups, size = b.shape[1:]
        steps = space.steps(dt).to(wide)
        keep = torch.exp(steps * space.decay)[..., None, None]  # (N, H, 1, 1)
        x = x.to(wide)
        new = (x * steps[..., None]).reshape(count, groups, -1, 1)  # (N, G, R * P, 1)
        b = b.to(wide)[:, :, None]
        told = None if c is None else c.to(wide)
        joined = (groups, heads // groups * width, size)
        small = state[:1].numel() * state.element_size() < _WORTH_BLOCKS
        if rows is None and (small or state.device.type != "cpu"):
            state.mul_(keep).view(-1, *joined).addcmul_(new, b)
            if told is None:
                return x
            output = (state.view(-1, *joined) @ told[..., None]).view(x.shape)
        else:  # in place, one group of a row at a time: no gathering, and it fits the cache
            output = torch.empty(count * groups, joined[1], dtype=wide, device=x.device)
            faded = state.view(-1, heads // groups, width * size).unbind()
            blocks = state.view(-1, *joined[1:]).unbind()
            keeps = keep.view(count * groups, -1, 1).unbind()
            news, bs = new.flatten(0, 1).unbind(), b.flatten(0, 1).unbind()
            tolds = None if told is None else told.flatten(0, 1).unbind()
            outputs = output.unbind()
            for number, row in enumerate(range(count) if rows is None else rows):
                for group in range(groups):
                    place, here = number * groups + group, row * groups + group
                    faded[here].mul_(keeps[place])
                    blocks[here].addcmul_(news[place], bs[place])
                    if tolds is not None:
                        torch.mv(blocks[here], tolds[place], out=outputs[place])
            if told is None:
                return x
            output = output.view(x.shape)
        return output.addcmul_(x, space.mixer.D.to(wide)[:, None])

    def continue_rows(
        self,
        space: StateSpace,
        state: Tensor,
        rows: Sequence[int],
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor | None,
    ) -> Tensor | None:
        wide = torch.promote_types(x.dtype, torch.float32)
        small = state[:1].numel() * state.element_size() < _WORTH_ROWS
        if small or x.shape[1] > _SHORT or state.device.type != "cpu" or state.dtype != wide:
            return None
        return _continue_rows(space, state, rows, x.to(wide), dt, b.to(wide), c)

    def convolve(self, space: StateSpace, seen: Tensor, tokens: int) -> Tensor:
        wide = torch.promote_types(seen.dtype, torch.float32)
        kernel = space.taps.shape[0]
        missing = kernel - 1 - (seen.shape[1] - tokens)
        if missing > 0:
            seen = F.pad(seen, (0, 0, missing, 0))
        seen = seen[:, seen.shape[1] - tokens - kernel + 1 :].to(wide)
        summed = _weigh(space, [seen[:, tap : tap + tokens] for tap in range(kernel)])
        return _activate(space, summed).to(space.taps.dtype)

    def convolve_step(self, space: StateSpace, window: Tensor, xbc: Tensor) -> Tensor:
        wide = torch.promote_types(xbc.dtype, torch.float32)
        rolled = torch.cat([window[:, 1:], xbc[:, None].to(window.dtype)], dim=1)
        window.copy_(rolled)
        summed = _weigh(space, rolled.to(wide).unbind(1))
        return _activate(space, summed).to(space.taps.dtype)


def _short_scan(
    space: StateSpace, x: Tensor, dt: Tensor, b: Tensor, c: Tensor | None, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """`Plain.scan` of a few tokens after ``initial``, in as few operations as there can be."""
    rows, _, heads, width = x.shape
    groups, size = b.shape[2:]
    value, since = _entering(space, x, dt)
    final = _after(value, since, b, initial)
    if c is None:
        return x, final
    c = c.to(x.dtype).transpose(1, 2)  # (B, G, T, S)
    before = initial.view(rows, groups, heads // groups * width, size)
    across = (c @ before.transpose(2, 3)).transpose(1, 2)
    return _read(space, x, value, since, b, c, across.reshape(x.shape)), final


def _continue_rows(
    space: StateSpace,
    state: Tensor,
    rows: Sequence[int],
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    c: Tensor | None,
) -> Tensor:
    """`Plain.continue_rows`: one group of a row at a time, which fits the cache."""
    _, tokens, heads, width = x.shape
    groups, size = b.shape[2:]
    joined = heads // groups * width
    value, since = _entering(space, x, dt)
    news = _left(value, since, groups).flatten(0, 1).unbind()  # (R * P, T) each
    keeps = since[:, -1].exp().view(len(rows) * groups, heads // groups, 1).unbind()
    bs = b.transpose(1, 2).flatten(0, 1).unbind()  # (T, S) each
    faded = state.view(-1, heads // groups, width * size).unbind()
    blocks = state.view(-1, joined, size).unbind()
    read = None if c is None else c.to(x.dtype).transpose(1, 2)  # (B, G, T, S)
    told = () if read is None else read.flatten(0, 1).unbind()
    across = x.new_empty(len(told), tokens, joined)
    outputs = across.unbind()
    for number, row in enumerate(rows):
        for group in range(groups):
            place, here = number * groups + group, row * groups + group
            if told:
                torch.mm(told[place], blocks[here].t(), out=outputs[place])
            faded[here].mul_(keeps[place])
            blocks[here].addmm_(news[place], bs[place])
    if read is None:
        return x
    across = across.view(-1, groups, tokens, joined).transpose(1, 2).reshape(x.shape)
    return _read(space, x, value, since, b, read, across)


def _entering(space: StateSpace, x: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """What a few tokens bring.

    Returns:
        (B, T, H, P) x times its step size, and (B, T, H) the sum of the logarithms of the decays up
        to each token.
    """
    steps = space.steps(dt).to(x.dtype)
    return x * steps[..., None], (steps * space.decay).cumsum(1)


def _read(
    space: StateSpace,
    x: Tensor,
    value: Tensor,
    since: Tensor,
    b: Tensor,
    c: Tensor,
    across: Tensor,
) -> Tensor:
    """(B, T, H, P) the output of a few tokens.

    Args:
        space: the layer.
        x: (B, T, H, P).
        value: of `_entering`.
        since: of `_entering`.
        b: (B, T, G, S).
        c: (B, G, T, S).
        across: (B, T, H, P) what c reads of the state before them.
    """
    rows, tokens, heads, _ = x.shape
    groups = b.shape[2]
    by_head = since.transpose(1, 2)  # (B, H, T)
    fade = (by_head[..., :, None] - by_head[..., None, :]).clamp_(max=0.0).exp_()
    scores = (c @ b.permute(0, 2, 3, 1)).tril_()
    by_group = (rows, groups, heads // groups, tokens, tokens)
    fade = fade.view(by_group).mul_(scores[:, :, None])
    output = (fade.view(rows, heads, tokens, tokens) @ value.transpose(1, 2)).transpose(1, 2)
    output = torch.addcmul(output, across, since.exp()[..., None])
    return output.addcmul_(x, space.mixer.D.to(x.dtype)[:, None])


def replay(
    spaces: Sequence[StateSpace], x: Tensor, dt: Tensor, b: Tensor, initial: Tensor
) -> Tensor:
    """(B, H, P, S) states of several layers of one shape, after a few tokens.

    Args:
        spaces: the layers, each with B / L of the B rows, one after the other.
        x: (B, T, H, P).
        dt: (B, T, H), raw.
        b: (B, T, G, S).
        initial: (B, H, P, S) states before, not modified.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    each = x.shape[0] // len(spaces)
    bias, decay = (
        torch.stack(some).repeat_interleave(each, 0)[:, None]
        for some in zip(*((one.mixer.dt_bias, one.decay) for one in spaces), strict=True)
    )
    steps = spaces[0].steps(dt, bias).to(wide)
    value = x.to(wide) * steps[..., None]
    return _after(value, (steps * decay).cumsum(1), b.to(wide), initial.to(wide))


def _after(value: Tensor, since: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """(B, H, P, S) the state after a few tokens.

    Args:
        value: (B, T, H, P) x times its step size.
        since: (B, T, H) sum of the logarithms of the decays up to each token.
        b: (B, T, G, S).
        initial: (B, H, P, S) the state before.
    """
    added = _left(value, since, b.shape[2]) @ b.transpose(1, 2)  # (B, G, R * P, S)
    fade = since[:, -1].exp()[..., None, None]
    return torch.addcmul(added.view(initial.shape), initial, fade)


def _left(value: Tensor, since: Tensor, groups: int) -> Tensor:
    """(B, G, R * P, T) of each token's value, what is left after the last one."""
    rows, tokens = value.shape[:2]
    faded = value * (since[:, -1:] - since).exp_()[..., None]
    return faded.view(rows, tokens, groups, -1).permute(0, 2, 3, 1)


def _weigh(space: StateSpace, inputs: Sequence[Tensor]) -> Tensor:
    """The convolution's sum, in the precision of ``inputs``: K tensors (..., C), oldest first."""
    taps = space.taps.to(inputs[0].dtype)
    bias: Tensor | None = space.mixer.conv1d.bias
    if bias is None:
        summed = inputs[0] * taps[0]
    else:
        summed = torch.addcmul(bias.to(taps.dtype), inputs[0], taps[0])
    for one, tap in zip(inputs[1:], taps[1:], strict=True):
        summed.addcmul_(one, tap)
    return summed


def _activate(space: StateSpace, summed: Tensor) -> Tensor:
    if space.mixer.activation in {"silu", "swish"}:
        return F.silu(summed, inplace=True)
    activated: Tensor = ACT2FN[space.mixer.activation](summed)
    return activated


PLAIN: Kernels = Plain()
