"""A tiny random decoder whose layers alternate between attention and Mamba-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.attention import AttentionKind, AttentionLayer
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.mamba2 import Mamba2Kind, Mamba2Layer
from dynamax_lm.decoders.state_space import Kernels
from dynamax_lm.decoders.transformers_kernels import TRUSTED, best_kernels
from tests.builders import VOCAB, random_model
from tests.decoders.transformers_own import own_arithmetic


@dataclass(frozen=True)
class Hybrid:
    """The decoder and the two models whose modules it runs; embedding, norm and head are Mistral's.

    Attributes:
        layers: of each layer, its module.
    """

    stack: Decoder
    mistral: Any
    mamba2: Any
    layers: tuple[Any, ...]


def build_hybrid(layers: int = 6, *, seed: int = 0, trusted: bool = False) -> Hybrid:
    """Layers 0, 2, ... are attention, layers 1, 3, ... are Mamba-2.

    Args:
        layers: their number.
        seed: of the weights.
        trusted: whether every operation is transformers' own.
    """
    mistral = random_model("mistral", (layers + 1) // 2, seed=seed)
    mamba2 = random_model("mamba2", max(1, layers // 2), seed=seed + 1)
    arithmetic = own_arithmetic() if trusted else Arithmetic()
    kernels: Kernels = TRUSTED if trusted else best_kernels(mistral.device)
    attention = AttentionKind(mistral.config, mistral.model.rotary_emb, mistral.model.embed_tokens)
    recurrence = Mamba2Kind(mamba2.config, kernels)
    modules, adapters = [], []
    for index in range(layers):
        source = mamba2.backbone if index % 2 else mistral.model
        modules.append(source.layers[index // 2])
        adapters.append(
            Mamba2Layer(modules[-1], recurrence, arithmetic)
            if index % 2
            else AttentionLayer(modules[-1], attention, arithmetic)
        )
    stack = Decoder(
        adapters,
        embedding=mistral.model.embed_tokens,
        norm=mistral.model.norm,
        head=LinearPlace(mistral, "lm_head"),
        vocab_size=VOCAB,
        arithmetic=arithmetic,
    )
    return Hybrid(stack, mistral, mamba2, tuple(modules))
