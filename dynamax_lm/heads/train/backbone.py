"""The frozen model whose exits are trained: its hidden states at answer tokens.

This is the only forward pass of head training, by the operations of a run. Hidden states are kept
for one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.attention import MistralStack
from dynamax_lm.decoders.checkpoint import ATTENTION, FAMILY, MAMBA2, Architecture
from dynamax_lm.decoders.checkpoint_identity import CheckpointIdentity, identity_of
from dynamax_lm.decoders.description import text_config
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.decoders.mamba2 import Mamba2Stack
from dynamax_lm.decoders.pretrained import load_pretrained
from dynamax_lm.engine.exit_probe import HiddenStates, probe_exits
from dynamax_lm.heads.config import architecture_of
from dynamax_lm.heads.fingerprint import fingerprint
from dynamax_lm.heads.train.windows import Batch
from dynamax_lm.settings.model_args import read_model_args

_STACKS: dict[str, Callable[[Any], Any]] = {
    ATTENTION.name: MistralStack,
    MAMBA2.name: Mamba2Stack,
    FAMILY.name: FamilyStack,
}


@dataclass(frozen=True)
class Observation:
    """Hidden states and logits of one batch at its answer tokens.

    Attributes:
        hidden: per exit (B, A, D), the residual stream after the exit's layer.
        real: (B, A), which of these are tokens; the others are padding, on the right.
        full_logits: (n, V) of full depth at the real ones, row by row.
    """

    hidden: tuple[Tensor, ...]
    real: Tensor
    full_logits: Tensor


class Backbone:
    """A loaded model in evaluation mode, its parameters frozen.

    Args:
        model: a causal language model of the architecture.
        tokenizer: its tokenizer.
        architecture: which of them.
        name: the hub id or folder it came from.
    """

    def __init__(self, model: Any, tokenizer: Any, architecture: Architecture, name: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.architecture = architecture
        self.name = name
        self.stack: Any = _STACKS[architecture.name](model)

    @cached_property
    def identity(self) -> CheckpointIdentity:
        """Of weights, configurations and tokenizer."""
        return identity_of(self.model, self.tokenizer)

    @property
    def config(self) -> Any:
        """Transformers' configuration of the text decoder."""
        return text_config(self.model.config)

    @property
    def n_layers(self) -> int:
        """L."""
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """D."""
        return int(self.config.hidden_size)

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer: the tokenizer's, and those of the checkpoint."""
        own = getattr(self.model.generation_config, "eos_token_id", None)
        ids = [self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        return frozenset(one for one in ids if one is not None)

    def described(self) -> dict[str, Any]:
        """The fields of ``heads.of_backbone.OfBackbone``."""
        return {
            "backbone": self.name,
            "architecture": architecture_of(self.config.model_type),
            "n_layers": self.n_layers,
            "width": self.width,
            "vocabulary": int(self.config.vocab_size),
            "fingerprint": fingerprint(self.model.lm_head.weight),
        }

    def encode(self, text: str) -> list[int]:
        """Token ids as lm-eval's ``hf`` model encodes a prompt."""
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return ids

    def observe(self, batch: Batch, exit_layers: Sequence[int]) -> Observation:
        """Run ``batch`` at full depth and read it after each of ``exit_layers``, counted from 1."""
        _, real = batch.checked()
        *hidden, final = self.read(batch, exit_layers)
        return self.observation(hidden, final, real)

    @torch.no_grad()
    def observation(self, hidden: Sequence[Tensor], final: Tensor, real: Tensor) -> Observation:
        """The output of :meth:`read`, with full-depth logits of the (B, A) real tokens."""
        device = self.stack.device
        weight = self.model.lm_head.weight
        last = final[real.to(final.device)].to(weight.device, weight.dtype)
        full_logits = self.stack.project(last).float()
        return Observation(
            tuple(one.to(device) for one in hidden), real.to(device), full_logits.to(device)
        )

    @torch.no_grad()
    def read(self, batch: Batch, exit_layers: Sequence[int]) -> list[Tensor]:
        """(B, A, D) at the answer tokens, after each of ``exit_layers`` and the final norm.

        Those of exits are on the device of token ids, wherever their layers are.
        """
        device = self.stack.device
        positions, _ = batch.checked()
        rows, width = batch.ids.shape
        slots = (positions + torch.arange(rows)[:, None] * width).to(device)
        needed, place = slots.unique(return_inverse=True)  # a shorter row repeats its last slot
        seen = HiddenStates(needed, rows * width, len(exit_layers))
        # No mask: in a causal model padding on the right does not affect the tokens before it.
        whole = TokenBatch(batch.ids.to(device), (width,) * rows, tuple(range(rows)), prefill=True)
        probe_exits(self.stack, self.stack.new_state(rows), whole, exit_layers, [seen])
        *hidden, last = (states[place.to(states.device)] for states in seen.hidden)
        return [*(one.to(device) for one in hidden), self.stack.normed(last)]


def load_backbone(model: str, model_args: str, device: str | None) -> Backbone:
    """Load the frozen model from safetensors.

    Args:
        model: ``dynamax-mamba`` or ``dynamax-mistral``.
        model_args: ``pretrained=…,dtype=…``, as for lm-eval.
        device: where to put it; ``None`` for a GPU if there is one.

    Raises:
        SettingError: a wrong name or value, or a checkpoint that cannot be found or run.
    """
    return Backbone(*load_pretrained(model, read_model_args(model_args), device))
