"""The Mamba-2 layer as chunked matrix products, for training on a CPU.

Same function as transformers' torch path (a test says so), several times faster: with one group
the products C B^T and the chunk states are shared by all heads.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.bamba.modeling_bamba import BambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

CHUNK = 32


def ssd(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK) -> Tensor:
    """The state space scan for one group.

    Args:
        x: Inputs, (batch, time, heads, width).
        dt: Step sizes after softplus, (batch, time, heads).
        a: Negative decay rates, (heads,).
        b: Input projections, (batch, time, state).
        c: Output projections, (batch, time, state).
        chunk: Steps per chunk; divides `time`.

    Returns:
        Outputs without the skip term, shaped like `x`.
    """
    batch, time, heads, width = x.shape
    chunks, state = time // chunk, b.shape[-1]
    value = (x * dt[..., None]).view(batch, chunks, chunk, heads, width)
    b, c = (t.view(batch, chunks, chunk, state) for t in (b, c))
    decay = (dt * a).view(batch, chunks, chunk, heads).cumsum(dim=2)

    by_head = decay.transpose(2, 3)  # batch, chunks, heads, chunk
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    gap = (by_head[..., :, None] - by_head[..., None, :]).masked_fill(~causal, -torch.inf)
    scores = (c @ b.transpose(2, 3))[:, :, None] * gap.exp()
    inside = (scores @ value.transpose(2, 3)).transpose(2, 3)

    end = decay[:, :, -1:]
    kept = (value * (end - decay).exp()[..., None]).flatten(3)
    added = b.transpose(2, 3) @ kept  # batch, chunks, state, heads * width
    total = end.squeeze(2).cumsum(dim=1).transpose(1, 2)  # batch, heads, chunks
    earlier = torch.ones(chunks, chunks, dtype=torch.bool, device=x.device).tril(-1)
    since = (total - end.squeeze(2).transpose(1, 2))[..., :, None] - total[..., None, :]
    carry = since.masked_fill(~earlier, -torch.inf).exp()
    added = added.view(batch, chunks, state, heads, width).permute(0, 3, 1, 2, 4)
    entering = carry @ added.flatten(3)
    entering = entering.view(batch, heads, chunks, state, width).permute(0, 2, 3, 1, 4).flatten(3)
    across = (c @ entering).view(batch, chunks, chunk, heads, width) * decay.exp()[..., None]
    return (inside + across).reshape(batch, time, heads, width)


def mixer_forward(mixer: Mamba2Mixer | BambaMixer, hidden: Tensor) -> Tensor:
    """What `mixer(hidden)` computes without a cache or padding, by `ssd`."""
    batch, time, _ = hidden.shape
    inner, conv = mixer.intermediate_size, mixer.conv_dim
    gate, mixed, dt = mixer.in_proj(hidden).split([inner, conv, mixer.num_heads], dim=-1)
    window = mixer.conv_kernel_size
    weight = mixer.conv1d.weight.squeeze(1)
    padded = functional.pad(mixed, (0, 0, window - 1, 0))
    mixed = sum(padded[:, i : i + time] * weight[:, i] for i in range(window))
    mixed = functional.silu(mixed + mixer.conv1d.bias)
    x, b, c = mixed.split([inner, mixer.ssm_state_size, mixer.ssm_state_size], dim=-1)
    x = x.view(batch, time, mixer.num_heads, mixer.head_dim)
    dt = functional.softplus(dt + mixer.dt_bias)
    scanned = ssd(x, dt, -mixer.A_log.exp(), b, c) + x * mixer.D[:, None]
    gated = scanned.flatten(2) * functional.silu(gate)
    normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + mixer.layer_norm_epsilon)
    return mixer.out_proj(normed * mixer.norm.weight)
