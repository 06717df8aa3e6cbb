"""Random exit heads, loud enough that confidences spread and translators change tokens."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from dynamax_lm.heads import ExitHeads, HeadsConfig
from dynamax_lm.heads.config import architecture_of
from dynamax_lm.heads.fingerprint import fingerprint
from dynamax_lm.heads.prompt_map_config import PromptMapsConfig
from dynamax_lm.heads.prompt_maps import PromptMapBank
from tests.builders import STACKS, random_model

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


def config_of_four_layers(exits: tuple[int, ...], **options: Any) -> HeadsConfig:
    """Heads of a decoder of four layers, for the studies that train them."""
    own = {"n_layers": 4, "exit_layers": exits, "classifier_width": 16, "head_dim": 4}
    own |= {"conv_kernel": 4, "translator": "affine", "translator_rank": 0}
    return heads_config(**{"classifier": "none"} | own | options)


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
        "architecture": architecture_of(config.model_type),
        "n_layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "fingerprint": fingerprint(model.get_output_embeddings().weight),
        "exit_layers": exits,
    }
    return random_heads(heads_config(**given | options), seed)


def mixed_exits(kind: str, classifier: str) -> tuple[Any, ExitHeads]:
    """A decoder of six layers, and heads at four of its exits at which tokens really differ."""
    model = random_model(kind, 6, seed=3)
    heads = heads_of(model, (1, 3, 4, 5), 1, classifier=classifier, translator="low_rank")
    return STACKS[kind](model), heads


def random_maps(
    width: int, n_layers: int, prompt_exit: int, seed: int | None = 0, **own: Any
) -> PromptMapBank:
    """Prompt maps whose every weight is drawn; without a seed they are the identity."""
    given = {
        "backbone": "a random backbone",
        "architecture": "attention",
        "n_layers": n_layers,
        "width": width,
        "vocabulary": 61,
        "fingerprint": "0" * 64,
        "prompt_exit": prompt_exit,
        "group": 1,
        "translator": "affine",
        "translator_rank": 2,
    }
    maps = PromptMapBank(PromptMapsConfig(**given | own)).eval().requires_grad_(False)
    if seed is not None:
        torch.manual_seed(seed)
        for parameter in maps.parameters():
            parameter.normal_(std=0.3)
    return maps


def maps_of(model: Any, prompt_exit: int, seed: int | None = 0, **own: Any) -> PromptMapBank:
    """Random maps that are this model's own."""
    config = model.config
    given = {
        "architecture": architecture_of(config.model_type),
        "vocabulary": config.vocab_size,
        "fingerprint": fingerprint(model.get_output_embeddings().weight),
    }
    return random_maps(
        config.hidden_size, config.num_hidden_layers, prompt_exit, seed, **given | own
    )


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
