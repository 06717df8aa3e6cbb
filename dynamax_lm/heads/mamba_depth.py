"""``mamba_depth``: one Mamba that runs along depth, from exit to exit of the same token.

Tokens are independent of each other: the state of a token begins at the first exit checked and ends
when the token exits. The mixer and the down-projection are shared by all exits; each exit has its
own norm and read-out.

Glossary: n tokens, E exits, D the backbone's width, W the classifier's, I the mixer's inner width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dynamax_lm.heads.classifiers import make_mixer
from dynamax_lm.heads.config import HeadsConfig
from dynamax_lm.heads.mamba2_block import Memory

_NORM_OPS = 4


class MambaDepth(nn.Module):
    """The classifier of all exits.

    Attributes:
        flops: of one token checked at one exit, by the ledger's conventions.
    """

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        names = [str(layer) for layer in config.exit_layers]
        width = config.classifier_width
        self.norms = nn.ModuleDict({name: nn.RMSNorm(config.width, eps=1e-6) for name in names})
        self.down: nn.Linear | None = None
        self.flops = _NORM_OPS * config.width
        if width != config.width:
            self.down = nn.Linear(config.width, width, bias=False)
            self.flops += 2 * config.width * width
        self.mixer = make_mixer(config)
        self.outs = nn.ModuleDict({name: nn.Linear(self.mixer.inner, 1) for name in names})
        self.skips = nn.ModuleDict({name: nn.Linear(width, 1, bias=False) for name in names})
        self.flops += self.mixer.flops + 2 * self.mixer.inner + 2 * width

    def empty(self, tokens: int) -> Memory:
        """The state of tokens before their first exit."""
        return self.mixer.empty(tokens)

    def forward(self, layer: int, hidden: Tensor, tokens: Tensor, memory: Memory) -> Tensor:
        """Logits of tokens at one exit, one step of the recurrence.

        Args:
            layer: the exit.
            hidden: (n, D) float32.
            tokens: (n,) which of the pass's tokens these are.
            memory: the state, from :meth:`empty`; afterwards it includes this exit.

        Returns:
            (n,) logits.
        """
        inputs = self._enter(layer, hidden)
        mixed, new = self.mixer(inputs[:, None], memory.of(tokens))
        memory.put(tokens, new)
        return self._read(layer, mixed[:, 0], inputs)

    def logits(self, hidden: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """All exits at once, for training.

        Args:
            hidden: (..., D) float32 of the same tokens at each exit checked, by layer.

        Returns:
            (...) logits at each exit.
        """
        layers = sorted(hidden)
        inputs = torch.stack([self._enter(layer, hidden[layer]) for layer in layers], dim=-2)
        flat = inputs.flatten(0, -3)  # (n, E, W)
        mixed, _ = self.mixer(flat, self.empty(flat.shape[0]))
        mixed = mixed.reshape(*inputs.shape[:-1], -1)
        return {
            layer: self._read(layer, mixed[..., place, :], inputs[..., place, :])
            for place, layer in enumerate(layers)
        }

    def _enter(self, layer: int, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norms[str(layer)](hidden)
        return normed if self.down is None else self.down(normed)

    def _read(self, layer: int, mixed: Tensor, inputs: Tensor) -> Tensor:
        logits: Tensor = self.outs[str(layer)](mixed) + self.skips[str(layer)](inputs)
        return logits[..., 0].float()
