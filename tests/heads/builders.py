"""Random exit heads, loud enough that confidences spread and translators change tokens."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from dynamax_lm.heads import ExitHeads, HeadsConfig
from dynamax_lm.heads.fingerprint import fingerprint

CLASSIFIERS = ["linear", "ffn", "mamba", "mamba_depth"]
TRANSLATORS = ["identity", "low_rank", "affine"]


def heads_config(classifier: str = "mamba", **options: Any) -> HeadsConfig:
    """Heads of a backbone of six layers and width 16."""
    width = options.get("width", 16)
    own = {
        "backbone": "a random backbone",
        "architecture": "attention",
        "n_layers": 6,
        "width": 16,
        "vocabulary": 61,
        "fingerprint": "0" * 64,
        "exit_layers": (1, 3, 4, 5),
        "classifier": classifier,
        "classifier_width": width if classifier == "linear" else max(1, width // 2),
        "ffn_width": 12,
        "state_size": 4,
        "head_dim": 2,
        "conv_kernel": 3,
        "translator_rank": 2,
    }
    return HeadsConfig(**own | options)


def random_heads(config: HeadsConfig, seed: int = 0) -> ExitHeads:
    """Heads whose every weight is drawn."""
    torch.manual_seed(seed)
    heads = ExitHeads(config, "# Random heads\n").eval().requires_grad_(False)
    for name, parameter in heads.named_parameters():
        if name.startswith("translators"):
            parameter.normal_(std=0.3)
        elif parameter.dim() >= 2:
            parameter.normal_(std=0.7)
    return heads


def heads_of(model: Any, exits: tuple[int, ...], seed: int = 0, **options: Any) -> ExitHeads:
    """Random heads that are this model's own."""
    config = model.config
    given = {
        "architecture": "mamba2" if config.model_type == "mamba2" else "attention",
        "n_layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "fingerprint": fingerprint(model.get_output_embeddings().weight),
        "exit_layers": exits,
    }
    return random_heads(heads_config(**given | options), seed)


@st.composite
def kinds(draw: Any, width: int = 16) -> dict[str, Any]:
    """Random kinds, widths and sizes, as options of :func:`heads_config`."""
    classifier = draw(st.sampled_from(CLASSIFIERS))
    narrow = draw(st.integers(1, width))
    return {
        "classifier": classifier,
        "classifier_width": width if classifier == "linear" else narrow,
        "ffn_width": draw(st.integers(1, 20)),
        "state_size": draw(st.integers(1, 6)),
        "head_dim": draw(st.sampled_from([1, 2, narrow, 2 * narrow])) if narrow > 1 else 1,
        "expand": 2,
        "conv_kernel": draw(st.integers(1, 4)),
        "translator": draw(st.sampled_from(TRANSLATORS)),
        "translator_rank": draw(st.integers(1, 3)),
    }
