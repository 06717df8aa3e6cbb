"""FLOPs as torch's counter sees them, and random models of both architectures to count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

models = settings(max_examples=25, deadline=None)


@dataclass(frozen=True)
class Seen:
    """FLOPs by operator, as torch counts them."""

    linear: int
    batched: int
    convolution: int

    @property
    def total(self) -> int:
        return self.linear + self.batched + self.convolution


def seen(run: Callable[[], object]) -> Seen:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts().get("Global", {})
    aten = torch.ops.aten
    known = {aten.mm: "linear", aten.addmm: "linear", aten.bmm: "batched"}
    known[aten.convolution] = "convolution"
    sums = dict.fromkeys(("linear", "batched", "convolution"), 0)
    for operator, flops in counts.items():
        sums[known[operator]] += flops
    result = Seen(**sums)
    assert result.total == counter.get_total_flops()
    return result


def tokens(count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.long)


@st.composite
def attention_configs(draw: st.DrawFn) -> Any:
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    common: dict[str, Any] = {
        "num_hidden_layers": draw(st.integers(1, 3)),
        "hidden_size": heads * draw(st.integers(2, 5)),
        "intermediate_size": draw(st.integers(3, 20)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 4)),
        "vocab_size": draw(st.integers(4, 20)),
        "attn_implementation": "eager",
        "pad_token_id": 0,
    }
    if draw(st.booleans()):
        biases = {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
        return LlamaConfig(**common, **biases)
    window = draw(st.one_of(st.none(), st.integers(2, 6)))
    return MistralConfig(**common, sliding_window=window)


@st.composite
def mamba2_configs(draw: st.DrawFn) -> Mamba2Config:
    groups = draw(st.integers(1, 3))
    heads = groups * draw(st.integers(1, 3))
    expand = draw(st.sampled_from([1, 2]))
    head_dim = 2 * draw(st.integers(1, 3))
    return Mamba2Config(
        num_hidden_layers=draw(st.integers(1, 3)),
        hidden_size=heads * head_dim // expand,
        expand=expand,
        num_heads=heads,
        head_dim=head_dim,
        n_groups=groups,
        state_size=draw(st.integers(1, 6)),
        conv_kernel=draw(st.integers(2, 4)),
        chunk_size=draw(st.sampled_from([1, 4, 8])),
        vocab_size=draw(st.integers(4, 20)),
        use_bias=draw(st.booleans()),
        use_conv_bias=draw(st.booleans()),
    )


def attention_model(config: Any) -> Any:
    kind = MistralForCausalLM if isinstance(config, MistralConfig) else LlamaForCausalLM
    return kind(config).eval().requires_grad_(False)


def mamba2_model(config: Mamba2Config) -> Any:
    return Mamba2ForCausalLM(config).eval().requires_grad_(False)


def rotary(model: Any, count: int) -> int:
    """Frequencies times positions, elementwise to us: a product in some transformers versions."""
    angles, width = model.model.rotary_emb, model.config.hidden_size
    return seen(lambda: angles(torch.zeros(1, count, width), torch.arange(count)[None])).total
