"""The model that is measured: one of a given shape, or a checkpoint, with its decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dynamax_lm.decoders.attention import MistralStack
from dynamax_lm.decoders.cpu.product_choice import AUTO
from dynamax_lm.decoders.cpu.products import Packed
from dynamax_lm.decoders.description import text_config
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.decoders.mamba2 import Mamba2Stack

_STACKS: dict[str, Callable[[Any], Any]] = {
    "dynamax-mistral": MistralStack,
    "dynamax-mamba": Mamba2Stack,
    "dynamax": FamilyStack,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A random model; the proportions are those of the 7B checkpoints.

    Attributes:
        layers: L.
        width: D, a multiple of 256.
        vocabulary: V.
    """

    layers: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        kind: ``dynamax-mistral``, ``dynamax-mamba`` or ``dynamax``.
        model: transformers' model.
        stack: the decoder with the same weights; on a CPU a copy, whose products are chosen by
            measurement.
        rounds: rounds of every measurement.
        quick: whether to measure less work.
        seed: for prompts.
    """

    kind: str
    model: Any
    stack: Any
    rounds: int
    quick: bool
    seed: int

    @property
    def config(self) -> Any:
        """Transformers' configuration of the text decoder."""
        return text_config(self.model.config)

    @property
    def name(self) -> str:
        """Kind, shape and number format."""
        config = self.config
        dtype = str(self.model.dtype).removeprefix("torch.")
        return (
            f"{self.kind.removeprefix('dynamax-')} "
            f"{config.num_hidden_layers}x{config.hidden_size} {dtype}"
        )

    @property
    def attention(self) -> bool:
        """Whether it is a decoder of attention layers."""
        return self.kind == "dynamax-mistral"

    @property
    def layers(self) -> int:
        """L."""
        layers: int = self.stack.n_layers
        return layers

    @property
    def steps(self) -> int:
        """Tokens behind the seconds of one; more on a GPU, whose steps are shorter."""
        if self.quick:
            return 8
        return 24 if self.stack.device.type == "cpu" else 96

    def prompts(self, batch: int, tokens: int) -> list[tuple[int, ...]]:
        """Random prompts of equal length."""
        generator = torch.Generator().manual_seed(self.seed)
        vocabulary = self.config.vocab_size
        ids = torch.randint(3, vocabulary, (batch, tokens), generator=generator)
        return [tuple(row) for row in ids.tolist()]

    def linears(self) -> list[torch.nn.Module]:
        """The matrix products of a step, in order, with this package's products."""
        kinds = (torch.nn.Linear, Packed)
        layers = [part for layer in self.stack.decoder.layers for part in layer.modules()]
        return [part for part in [*layers, self.stack.lm_head] if isinstance(part, kinds)]

    def plain_linears(self) -> list[torch.nn.Linear]:
        """The same with transformers' products."""
        base = self.model.base_model
        decoder = getattr(base, "language_model", base)
        layers = [part for layer in decoder.layers for part in layer.modules()]
        parts = [*layers, self.model.lm_head]
        return [part for part in parts if isinstance(part, torch.nn.Linear)]


def make_subject(
    kind: str,
    shape: Shape,
    *,
    dtype: torch.dtype,
    device: str,
    seed: int,
    **options: Any,
) -> Subject:
    """A model with random weights; for ``options`` see :func:`wrap`."""
    torch.manual_seed(seed)
    config = _attention(shape) if kind == "dynamax-mistral" else _mamba(shape)
    from transformers import AutoModelForCausalLM

    with torch.device(device):  # drawn there: a processor takes minutes over 7 billion weights
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = model.eval().to(device)
    return wrap(kind, model, seed=seed, **options)


def wrap(
    kind: str,
    model: Any,
    *,
    rounds: int,
    quick: bool,
    seed: int,
    batch: int = 1,
    products: str = AUTO,
) -> Subject:
    """A loaded model, whose products are chosen for ``batch`` rows, or as ``products`` says."""
    mine = copy.deepcopy(model) if model.device.type == "cpu" else model
    stack = _STACKS[kind](mine)
    stack.choose_products(batch=batch, asked=products)
    stack.record_steps()
    return Subject(kind, model, stack, rounds, quick, seed)


def _attention(shape: Shape) -> Any:
    from transformers import MistralConfig

    return MistralConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.width * 7 // 2,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 64,
        num_key_value_heads=max(1, shape.width // 256),
        head_dim=64,
        max_position_embeddings=8192,
        sliding_window=None,
        **_SPECIAL,
    )


def _mamba(shape: Shape) -> Any:
    from transformers import Mamba2Config

    return Mamba2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_heads=shape.width // 32,
        head_dim=64,
        expand=2,
        state_size=128,
        n_groups=max(1, shape.width // 512),
        chunk_size=256,
        tie_word_embeddings=False,
        **_SPECIAL,
    )


_SPECIAL: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": None}


def token_ids(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """(B, T) of rows of equal length."""
    return torch.tensor([list(row) for row in rows], device=device)
