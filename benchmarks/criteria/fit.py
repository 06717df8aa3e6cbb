"""What the fits of translators and classifiers share: recipe, configuration, rate and folder.

``dynamax_lm.heads.train`` runs the backbone for every batch; here one collection serves all kinds,
and labels are made once: all are trained on the same tokens, steps and loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.criteria.kinds import Kind
from dynamax_lm.heads import ExitHeads, HeadsConfig
from dynamax_lm.heads.fingerprint import fingerprint


@dataclass(frozen=True)
class Recipe:
    """How everything is trained, the same for every kind.

    Attributes:
        steps: of each classifier.
        documents: of a classifier's batch.
        lr: highest rate of the classifiers.
        loss: a name in ``CLASSIFIER_LOSSES``.
        translator_steps: of distillation, after the least-squares start.
        translator_tokens: of a step of distillation.
        translator_lr: highest rate of distillation.
        seed: of everything random.
    """

    steps: int = 100
    documents: int = 256
    lr: float = 4e-3
    loss: str = "balanced"
    translator_steps: int = 200
    translator_tokens: int = 512
    translator_lr: float = 5e-4
    seed: int = 0


def heads_config(
    lm: Any, name: str, exits: tuple[int, ...], kind: Kind | None, rank: int = 0
) -> HeadsConfig:
    """The configuration of heads with translators, and a classifier unless ``None``.

    Args:
        lm: a loaded ``dynamax-…`` model.
        name: of the backbone.
        exits: layers run before each.
        kind: of the classifier.
        rank: of the translators; 0 for affine ones.
    """
    config = lm.config
    full = int(config.hidden_size)
    narrow = min(full, max(32, full // 16 // 16 * 16))
    width = full if kind is None or kind.width == "full" else narrow
    return HeadsConfig(
        backbone=name,
        architecture=type(lm).ARCHITECTURE.name,
        n_layers=lm.stack.n_layers,
        width=full,
        vocabulary=int(config.vocab_size),
        fingerprint=fingerprint(lm.model.get_output_embeddings().weight),
        exit_layers=exits,
        classifier="none" if kind is None else kind.classifier,
        classifier_width=width,
        ffn_width=4 * width if kind is not None and kind.classifier == "ffn" else 0,
        translator="low_rank" if rank else "affine",
        translator_rank=rank,
    )


def warm_cosine(step: int, steps: int) -> float:
    """Share of the highest rate: a short linear warm-up, then a cosine to 0."""
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * step / steps))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def load_or_fit(folder: Path, fit: Any) -> ExitHeads:
    """Heads from ``folder`` where they are finished, else ``fit()``, saved there."""
    if (folder / "config.json").is_file():
        return ExitHeads.from_pretrained(folder)
    heads: ExitHeads = fit()
    heads.save_pretrained(folder, card="Made by `python -m benchmarks.criteria`.\n")
    return heads
