"""Tiny random decoders, and hypothesis strategies for their shapes.

Weights are drawn wide enough that exits disagree with full depth and confidences spread out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.attention import MistralStack
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.mamba2 import Mamba2Stack
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest

VOCAB = 61
STACKS = {"mistral": MistralStack, "llama": MistralStack, "mamba2": Mamba2Stack}
SKIPPED = [
    ("mistral", "propagate"),
    ("mistral", "copy_kv"),
    ("mamba2", "propagate"),
    ("mamba2", "freeze"),
    ("mistral", "recompute"),
    ("mamba2", "recompute"),
]
CONFIDENCES = ["top_prob", "margin", "entropy", "saturation", "patience", "oracle"]


def small_costs(vocabulary: int) -> AttentionCosts:
    """Four layers of width 8, with numbers that can be followed by hand."""
    return AttentionCosts(
        n_layers=4,
        width=8,
        feedforward=16,
        query_heads=2,
        kv_heads=1,
        head_dim=4,
        vocabulary=vocabulary,
    )


@dataclass(frozen=True)
class Shape:
    """A drawn architecture; ``options`` go to the configuration class."""

    kind: str
    layers: int
    options: tuple[tuple[str, Any], ...]
    seed: int

    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        return random_model(
            self.kind, self.layers, seed=self.seed, dtype=dtype, **dict(self.options)
        )


def random_model(
    kind: str, layers: int = 4, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    """A random decoder in evaluation mode."""
    torch.manual_seed(seed)
    model = _CLASSES[kind](make_config(kind, layers, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model.to(dtype)


def make_config(kind: str, layers: int = 4, **options: Any) -> Any:
    """A configuration small enough for a test."""
    shared = {"vocab_size": VOCAB, "num_hidden_layers": layers}
    special = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": None}
    if kind == "mamba2":
        own = {
            "hidden_size": 16,
            "num_heads": 4,
            "head_dim": 8,
            "expand": 2,
            "state_size": 8,
            "n_groups": 2,
            "chunk_size": 8,
        }
        return Mamba2Config(**shared | special | own | options)
    own = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    if kind == "mistral":
        own["sliding_window"] = None
    config = MistralConfig if kind == "mistral" else LlamaConfig
    return config(**shared | special | own | options)


def shallow(model: Any, layers: int) -> Any:
    """A model of the first ``layers`` layers, with the same weights."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    cut = type(model)(config).eval()
    cut.load_state_dict(model.state_dict(), strict=False)
    return cut


_CLASSES = {
    "mistral": MistralForCausalLM,
    "llama": LlamaForCausalLM,
    "mamba2": Mamba2ForCausalLM,
}


@st.composite
def shapes(draw: Any, kinds: tuple[str, ...] = ("mistral", "llama", "mamba2")) -> Shape:
    """Random architectures: head counts, groups, windows, convolution widths, scan lengths."""
    kind = draw(st.sampled_from(kinds))
    layers = draw(st.integers(2, 5))
    seed = draw(st.integers(0, 10_000))
    if kind == "mamba2":
        groups = draw(st.sampled_from([1, 2, 4]))
        heads = groups * draw(st.integers(1, 2))
        head_dim = draw(st.sampled_from([4, 8]))
        expand = 2
        width = heads * head_dim // expand
        options = {
            "hidden_size": width,
            "num_heads": heads,
            "head_dim": head_dim,
            "n_groups": groups,
            "state_size": draw(st.sampled_from([4, 8])),
            "conv_kernel": draw(st.integers(2, 5)),
            "chunk_size": draw(st.sampled_from([2, 4, 16])),
            "use_conv_bias": draw(st.booleans()),
            "residual_in_fp32": draw(st.booleans()),
            "tie_word_embeddings": draw(st.booleans()),
        }
    else:
        groups = draw(st.integers(1, 3))
        heads = groups * draw(st.integers(1, 3))
        head_dim = draw(st.sampled_from([4, 8]))
        options = {
            "hidden_size": 4 * heads,
            "num_attention_heads": heads,
            "num_key_value_heads": groups,
            "head_dim": head_dim,
            "tie_word_embeddings": draw(st.booleans()),
            "attn_implementation": draw(st.sampled_from(["sdpa", "eager"])),
        }
        if kind == "mistral":
            options["sliding_window"] = draw(st.sampled_from([None, 3, 6, 64]))
        else:
            options["attention_bias"] = draw(st.booleans())
            options["mlp_bias"] = draw(st.booleans())
    return Shape(kind, layers, tuple(sorted(options.items())), seed)


def prompts(min_rows: int = 1, max_rows: int = 4, longest: int = 9) -> st.SearchStrategy[Any]:
    """Batches of prompts of different lengths."""
    token = st.integers(0, VOCAB - 1)
    row = st.lists(token, min_size=1, max_size=longest).map(tuple)
    return st.lists(row, min_size=min_rows, max_size=max_rows)


def never(answer: Any) -> bool:
    """A stop rule that never stops."""
    del answer
    return False


def uneven_requests() -> tuple[list[GenerateRequest], list[ScoreRequest]]:
    """Prompts and continuations of different lengths; answers end at different times."""
    rows = [(1, 5, 9, 2, 2, 7), (2,), (8, 8, 3, 1), (11, 4)]
    lengths = zip(rows, (12, 4, 9, 1), strict=True)
    asked = [GenerateRequest(row, new, never, key=str(row)) for row, new in lengths]
    scored = [ScoreRequest(row, (3, 9, 9, 1, 30)[:length]) for length, row in enumerate(rows, 2)]
    return asked, scored


def catch_up(stack: Any, state: Any, rows: Sequence[int]) -> None:
    """Run the pending tokens of ``rows`` of ``state`` through the layers that they skipped."""
    rows = [row for row in rows if state.pending.count(row)]
    if rows:
        none = torch.zeros(len(rows), 0, dtype=torch.long, device=stack.device)
        token_batch = TokenBatch(none, (0,) * len(rows), tuple(rows))
        run_token_batch(stack, state, token_batch, None, skipped_state=RECOMPUTE)


def whole_forward(model: Any, sequence: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last position's logits (V,), and its states (1, D) after every layer."""
    after: list[torch.Tensor] = []

    def read(module: Any, inputs: Any, output: Any) -> None:
        after.append((output[0] if isinstance(output, tuple) else output)[0, -1:])

    hooks = [layer.register_forward_hook(read) for layer in model.base_model.layers]
    logits = model(torch.tensor([sequence]), use_cache=False).logits[0, -1]
    for hook in hooks:
        hook.remove()
    return logits, after
