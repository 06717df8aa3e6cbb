"""Classifiers: the probability that exiting is right, from the hidden state at one exit.

This module has their computation and FLOPs. Each starts with an RMS norm, since the scale of hidden
states differs between exits, and most have a down-projection, since a classifier as wide as the
backbone costs as much as a layer.

``linear`` is CALM's single layer (arXiv 2207.07061), ``ffn`` a transformer block's gated
feed-forward, ``mamba`` DYNAMAX's Mamba block with a narrow output (arXiv 2504.20922), which carries
state from token to token, ``mamba_depth`` one Mamba that carries state from exit to exit of the
same token.

**The state of a Mamba classifier.** At each exit the state includes exactly the tokens checked
there, from the first step that may exit: it is empty at the last prompt token, and omits tokens
that exited below (as ``freeze`` does for a layer). So a parallel pass makes the same checks in the
same order as single steps do, and an exited token costs nothing.

Glossary: n tokens, D the backbone's width, W the classifier's, B rows, T tokens of the longest row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.heads.config import HeadsConfig
from dynamax_lm.heads.mamba2_block import Memory, Mixer

_NORM_OPS = 4
"""Of an exit's norm, per element: the ledger's convention."""


class Entrance(nn.Module):
    """RMS norm and, unless W = D, a down-projection."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.down: nn.Linear | None = None
        self.flops = _NORM_OPS * config.width
        if config.classifier_width != config.width:
            self.down = nn.Linear(config.width, config.classifier_width, bias=False)
            self.flops += 2 * config.width * config.classifier_width

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., W)."""
        normed: Tensor = self.norm(hidden)
        return normed if self.down is None else self.down(normed)


class Classifier(nn.Module):
    """One exit's classifier; the base class has no state.

    Attributes:
        flops: of one token checked, by the ledger's conventions.
    """

    flops: int

    def empty(self, rows: int) -> Memory | None:
        """The empty state of ``rows`` rows."""
        del rows
        return None

    def forward(self, hidden: Tensor, rows: Tensor, memory: Memory | None) -> Tensor:
        """Logits of tokens.

        Args:
            hidden: (n, D) float32.
            rows: (n,) the row each belongs to; a row's tokens are adjacent and in order.
            memory: the state, from :meth:`empty`; afterwards it includes these tokens. ``None``
                starts empty and stores nothing, as in training.

        Returns:
            (n,) logits.
        """
        raise NotImplementedError

    def logits(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """The parallel form for training: from an empty state, over whole sequences at once.

        Args:
            hidden: (B, T, D) float32.
            mask: (B, T) bool, which tokens are checked; ``None`` for all. Others are skipped.

        Returns:
            (B, T); 0 where no token is checked.
        """
        batch, width = hidden.shape[:2]
        running = hidden.new_ones(batch, width, dtype=torch.bool) if mask is None else mask
        rows, places = running.nonzero(as_tuple=True)
        found = self(hidden[rows, places], rows, None)
        blank = torch.zeros(batch, width, device=hidden.device)
        return blank.index_put((rows, places), found.float())


class Linear(Classifier):
    """Norm, then one layer to one number."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.entrance = Entrance(config)
        self.out = nn.Linear(config.width, 1)
        self.flops = self.entrance.flops + 2 * config.width

    def forward(self, hidden: Tensor, rows: Tensor, memory: Memory | None) -> Tensor:
        """(n, D) to (n,)."""
        logits: Tensor = self.out(self.entrance(hidden))
        return logits[:, 0]


class FeedForward(Classifier):
    """Norm, projection, a gated feed-forward block with its residual sum, then to one number."""

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        width, inner = config.classifier_width, config.ffn_width
        self.entrance = Entrance(config)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.out = nn.Linear(width, 1)
        self.flops = self.entrance.flops + 3 * 2 * width * inner + 2 * width

    def forward(self, hidden: Tensor, rows: Tensor, memory: Memory | None) -> Tensor:
        """(n, D) to (n,)."""
        inputs = self.entrance(hidden)
        block = self.down_proj(F.silu(self.gate_proj(inputs)) * self.up_proj(inputs))
        logits: Tensor = self.out(inputs + block)
        return logits[:, 0]


class Mamba(Classifier):
    """Norm, projection, a Mamba-2 mixer along the tokens checked, then to one number.

    The block's residual sum becomes a linear term of its input, as its output is one number wide.
    """

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.entrance = Entrance(config)
        self.mixer = make_mixer(config)
        self.out = nn.Linear(self.mixer.inner, 1)
        self.skip = nn.Linear(config.classifier_width, 1, bias=False)
        read = 2 * self.mixer.inner + 2 * config.classifier_width
        self.flops = self.entrance.flops + self.mixer.flops + read

    def empty(self, rows: int) -> Memory:
        """An empty state for each row."""
        return self.mixer.empty(rows)

    def forward(self, hidden: Tensor, rows: Tensor, memory: Memory | None) -> Tensor:
        """(n, D) to (n,); rows of several tokens are scanned, single tokens stepped."""
        inputs = self.entrance(hidden)
        if not hidden.shape[0]:
            return self.skip(inputs)[:, 0]  # type: ignore[no-any-return]
        present, place, counts = torch.unique_consecutive(
            rows, return_inverse=True, return_counts=True
        )
        known = self.empty(present.shape[0]) if memory is None else memory.of(present)
        longest = int(counts.max())
        if longest == 1:
            mixed, new = self.mixer(inputs[:, None], known)
            mixed = mixed[:, 0]
        else:
            rank = torch.arange(rows.shape[0], device=rows.device)
            rank = rank - (counts.cumsum(0) - counts)[place]
            shape = (present.shape[0], longest, inputs.shape[1])
            padded = inputs.new_zeros(shape).index_put((place, rank), inputs)
            mixed, new = self.mixer(padded, known, counts)
            mixed = mixed[place, rank]
        if memory is not None:
            memory.put(present, new)
        logits: Tensor = self.out(mixed) + self.skip(inputs)
        return logits[:, 0]


def make_mixer(config: HeadsConfig) -> Mixer:
    """The mixer of the configuration's sizes."""
    return Mixer(
        config.classifier_width,
        expand=config.expand,
        head_dim=config.head_dim,
        state_size=config.state_size,
        conv_kernel=config.conv_kernel,
    )


BY_TOKEN: dict[str, type[Linear | FeedForward | Mamba]] = {
    "linear": Linear,
    "ffn": FeedForward,
    "mamba": Mamba,
}
"""Kinds with one classifier for each exit; ``mamba_depth`` has one for all exits."""
